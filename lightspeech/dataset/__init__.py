"""Datasets that a teacher learns from: folders in LJSpeech's layout, checked and clean.

python -m lightspeech.dataset import DIR --out OUT     __main__, importing
python -m lightspeech.dataset speak --text FILE ...    __main__, speak

folder            metadata.csv, wavs/ and the card: what a dataset is, and reading it
clean             a recording, trimmed and at the loudness of all others
features          mels and symbol ids of a dataset, cached for training

importing         recordings as they come -> dataset
measuring         what can be said of one sound file
checks, judging   the limits, and which utterances stay
journal, pool     what has been done, and the processes that do it
import_report     what was left out, and why

speak             texts -> dataset
engines           festival, flite and espeak-ng behind one interface
speak_workers     the processes, one engine each
speak_journal     what has been spoken
"""
