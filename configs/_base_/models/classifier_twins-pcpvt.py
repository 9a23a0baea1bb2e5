# ImageNet classifier on Twins-PCPVT-S; B and L have the same channels.
_base_ = 'classifier_twins-svt.py'
model = dict(backbone=dict(type='TwinsPCPVTBackbone'))
