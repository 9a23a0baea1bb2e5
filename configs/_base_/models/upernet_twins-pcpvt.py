# UPerNet on Twins-PCPVT-S. The public classes of B and L ignore the drop path of 0.3 that their configs ask for and
# run 0.2 as well; all three have the same channels.
_base_ = 'upernet_twins-svt.py'
model = dict(
    backbone=dict(_delete_=True, type='TwinsPCPVTBackbone', arch='small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
