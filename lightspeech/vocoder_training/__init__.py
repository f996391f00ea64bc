"""Training of the light vocoder: (mel, sound) pairs in, a vocoder of 1.4 M parameters out.

clips      recordings, and mels that others made of them -> batches of clips
critics    networks that tell a vocoder's sound from a recording
objective  the losses
config     the settings of all that
training   the run

`lightspeech.vocoder_pairs` makes mels of a student, or sound of another vocoder, to learn from.
"""
