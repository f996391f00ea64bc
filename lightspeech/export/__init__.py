"""A voice for programs without torch: ONNX graphs, and what is to be known of them.

python -m lightspeech.export VOICE --out voice/                   __main__
python -m lightspeech.export VOICE --out voice/ --format piper

graph             a small writer of ONNX graphs
layers            linear, normalisation, ConvNeXt block
recurrence        GRUs whose inputs repeat
student_graph     ids -> mel, durations
vocoder_graph     mel -> sound
harmonics         the voiced part of its spectra
graphs            the files' graphs, made of these
shared_weights    graphs that read their weights from another one's file

folder            the folder that lightspeech.runtime takes
card, readme      what a voice says about itself
piper             the files that Piper takes
piper_text        Piper's way with text
checking          every export beside the networks it was made of
"""
