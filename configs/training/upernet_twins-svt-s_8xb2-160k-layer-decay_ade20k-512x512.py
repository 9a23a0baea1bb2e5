# Learning rates that fall by a tenth from each layer to the one below; see TwinsLayerDecayConstructor for the layers.
_base_ = '../ade20k/upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
optim_wrapper = dict(constructor='TwinsLayerDecayConstructor', paramwise_cfg=dict(layer_decay=0.9))
