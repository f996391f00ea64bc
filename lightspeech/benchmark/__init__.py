"""How fast the parts are on this machine, beside what they replace, and in how much memory.

    python -m lightspeech.benchmark                     # every part
    python -m lightspeech.benchmark vocoders --json speed.json
    python -m lightspeech.benchmark vocoders --mel MEL.npy --vocoder hifigan:GENERATOR --quality

    __main__     the command: parts -> rows -> one table, and JSON
    rows         Row, what one measurement says; the table; the record of a run
    settings     what a run was asked for
    timing       best_times, of sides in turn; the rate of one large product
    floors       multiply-adds of a training step, of HiFi-GAN and of WaveGlow
    training     the part training: one step of the student
    teacher_training  the part teacher-training: one step of a teacher
    stepwise     a teacher that reads along frame by frame, what that is compared with
    student      the part student: ids to mel
    teacher      the part teacher: alone, and labelling a batch
    labelling    the part labelling: many texts at once, beside one at a time
    vocoders     the part vocoders: mel to sound
    contenders   which vocoders those are, and how much mel each is given
    published    HiFi-GAN and WaveGlow of the published sizes, with random weights
    textbook     librosa's Griffin-Lim, what ours is compared with
    memory       python -m lightspeech.benchmark.memory: one vocoder in a process of its own

**Ratios.** Every comparison alternates its two sides in one run and takes each side's best time, so
the ratios hold even where the absolute times drift.

**Floors.** The floor of a computation is the time that its multiply-adds alone would take at the
rate of one large product (1024 x 1024 by 1024 x 1024, single precision) on the same threads; the
table has the share of the measured time that this is. At 100% nothing but a different computation
would be faster.

    floor = multiply_adds / rate        rate = 1024^3 / seconds of the product
    share = floor / seconds

Only convolutions and matrix products count: a layer of |W| weights that is applied at R positions
takes R |W| multiply-adds, a transposed convolution's positions being those of its input; a training
step takes three times that, once forward and twice backward. `floors` has each model's sum. The
rate is measured before and after what it is compared with, and the better one counts.

**Memory.** Each vocoder runs in a process of its own that streams a long mel and throws the samples
away. Its peak is the resident memory of the whole process, PyTorch included; what vocoding added is
the peak less what the process held once the vocoder was loaded and had made its first sounds.
"""

from __future__ import annotations
