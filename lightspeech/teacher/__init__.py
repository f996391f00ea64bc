"""Training a Tacotron 2 teacher; `python -m tacotron2.train` is its command line.

dataset folder -> features    lightspeech/dataset/features.py   mels and symbol ids, cached
features -> paths             aligning.py, aligner.py   which frame says which symbol
features, paths -> batches    batches.py
batches -> teacher            training.py, with config.py, parts.py, ema.py
how good it is by now         validation.py, curves.py
the run's folder              run.py, state.py
"""
