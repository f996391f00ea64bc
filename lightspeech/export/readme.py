"""The README of an exported voice, for somebody who got the folder and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_README = """\
# {name}: a voice by LightSpeech

An English voice that runs on one CPU core with ONNX Runtime and needs no GPU and no PyTorch.

| file | bytes | what it is |
|---|---|---|
{files}
| `voice.json` | | symbols, audio facts, licence, checksums |

`voice.onnx` alone is enough: the other two graphs are its halves, whose weights are read from it,
for sound that starts before all of it is made. `voice.json` is also in its metadata, under the key
`lightspeech`. {student:,} parameters of the student, {vocoder:,} of the vocoder, {precision}.

## Speak

With the runtime (`pip install 'lightspeech[runtime]'`), which normalises text, splits it and
checks what it is given:

    python -m lightspeech.runtime FOLDER "Hello there." --out hello.wav
    echo "Hello there." | python -m lightspeech.runtime FOLDER --raw | aplay -r {rate} -f S16_LE

With nothing but `numpy` and `onnxruntime`:

    import json, wave, numpy as np, onnxruntime
    voice = onnxruntime.InferenceSession("voice.onnx")
    card = json.loads(voice.get_modelmeta().custom_metadata_map["lightspeech"])
    ids = {{symbol: i for i, symbol in enumerate(card["symbols"])}}
    tokens = np.array([ids[c] for c in "hello there." if c in ids])
    wav, durations = voice.run(None, {{"tokens": tokens, "pace": np.array(1.0, np.float32)}})
    with wave.open("hello.wav", "wb") as file:
        file.setparams((1, 2, card["audio"]["sample_rate"], 0, "NONE", ""))
        file.writeframes((np.clip(wav, -1, 1) * 32767).astype("<i2").tobytes())

## Inputs and outputs

| name | type | shape | what it is |
|---|---|---|---|
| `tokens` | int64 | (N,) | ids of symbols: their places in the list `symbols` of the card |
| `pace` | float32 | () | 2 is twice as fast; held within {slowest:g} to {fastest:g} |
| `wav` | float32 | ({hop} T,) | samples, {rate:,} a second, mono, most of them within -1 to 1 |
| `durations` | int64 | (N,) | frames of {hop} samples that each symbol takes; their sum is T |
| `mel` | float32 | (T, {mels}) | log-mel spectrogram (between the halves) |

A sentence is best given alone, in small letters, with a mark at its end. N is at least 1.

## What it does not do

The graphs know nothing of numbers, abbreviations, capitals (write small letters) and accents: the
runtime does that. One voice, one style, English only; there is no control of pitch.

## Licence and origin

Licence: {licence}.
Voice: configuration {configuration}, step {step}; its teacher: {teacher}. Vocoder: {vocoder_name}.
Exported by LightSpeech {version}.
"""

_FILES = {
    "voice.onnx": "`tokens`, `pace` -> `wav`, `durations`",
    "mel.onnx": "`tokens`, `pace` -> `mel`, `durations`",
    "vocoder.onnx": "`mel` -> `wav`",
}


def readme(card: Mapping[str, Any]) -> str:
    """The text for a voice with this card."""
    audio, pace, origin = card["audio"], card["pace"], card["voice"]
    return _README.format(
        name=card["name"],
        files="\n".join(
            f"| `{name}` | {file['bytes']:,} | {_FILES[name]} |"
            for name, file in card["files"].items()
        ),
        student=card["parameters"]["student"],
        vocoder=card["parameters"]["vocoder"],
        precision=card["precision"],
        rate=audio["sample_rate"],
        hop=audio["hop_length"],
        mels=audio["n_mels"],
        slowest=pace["min"],
        fastest=pace["max"],
        licence=card["licence"],
        configuration=origin["configuration"],
        step=origin["step"],
        teacher=origin["teacher"]["name"],
        vocoder_name=card["vocoder"]["name"],
        version=card["code_version"],
    )
