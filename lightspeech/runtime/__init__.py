"""An exported voice speaks, without PyTorch: `pip install lightspeech[runtime]`.

    from lightspeech.runtime import Voice

    voice = Voice.load("voice")              # what python -m lightspeech.export wrote
    speech = voice("Hello there. How are you?")
    speech.save("hello.wav")
    for part in voice.stream(long_text):     # a sentence at a time, as soon as it is made
        play(part.wav)

onnx_file   what a file holds, looked at before anything runs it
card        what a voice says about itself
voice_file  a folder or a file -> the graph and its card
voice       Voice: text -> Speech
speech      Speech: sound, and when each symbol, word and sentence is said
__main__    the command line

Texts are read as `lightspeech.synthesis` reads them, and their sentences joined as there.
"""

from lightspeech.runtime.speech import Span, Speech
from lightspeech.runtime.voice import Voice

__all__ = ["Span", "Speech", "Voice"]
