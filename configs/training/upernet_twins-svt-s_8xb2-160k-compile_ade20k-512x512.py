# torch.compile. The first iterations take minutes. Two-stage detectors choose boxes in Python, which no compiler follows.
_base_ = '../ade20k/upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
compile = True
