custom_imports = dict(imports=['mmtwins'], allow_failed_imports=False)
custom_hooks = [
    dict(type='FitCheckpointHook'),
    dict(type='MatchClassesHook'),
    dict(type='CheckBatchSizeHook'),
    dict(type='CountFaultsHook'),
    dict(type='ExactResumeHook'),
    dict(type='StopOnSignalHook'),
    dict(type='StopOnDivergenceHook'),
    dict(type='ReturnMemoryHook'),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_level = 'INFO'
load_from = None
resume = False
