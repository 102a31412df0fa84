"""What happens to each key of PaddleNLP's TrainingArguments that is not an argument of ours.

Every such key is in exactly one of the three tables; a test compares them with the installed version. When in doubt a
key is refused by name: accepting what is then ignored is worse.
"""

from __future__ import annotations

PASSED_ON = (
    "amp_custom_black_list",
    "amp_custom_white_list",
    "scale_loss",
    "dataloader_drop_last",
    "logging_first_step",
    "wandb_api_key",
    "wandb_http_proxy",
)
"""Handed to PaddleNLP's TrainingArguments as written."""

KEPT_ANYWAY = {
    "eval_accumulation_steps": "evaluation keeps sums only, so no outputs pile up on the device",
    "prediction_loss_only": "evaluation returns the loss only",
    "count_trained_tokens": "trained tokens are always counted",
    "unified_checkpoint": "a checkpoint is always one layout-independent folder",
}
"""Accepted at any value, because what they ask for holds in any case; the plan of a run says so."""

_PARALLEL = "it belongs to a kind of parallelism that is not available"
_CHECKPOINT = "a checkpoint is always one layout-independent folder"
_LOADER = "samples are tokenised once and kept in memory"
_SPEED = "use PaddleNLP's default"

REFUSED = {
    "do_export": "use paddle-sft merge after training",
    "log_on_each_node": "rank 0 logs, the other ranks only warn",
    "output_signal_dir": "signals go to output_dir",
    "save_on_each_node": "rank 0 saves",
    "no_cuda": 'write "device": "cpu"',
    "amp_master_grad": "PaddleNLP has it for tensor and pipeline parallel only; use fp16_opt_level O1",
    "bf16_full_eval": "evaluation runs in the precision of training",
    "fp16_full_eval": "evaluation runs in the precision of training",
    "sharding_parallel_mesh_dimension": _PARALLEL,
    "sharding_comm_buffer_size_MB": _PARALLEL,
    "save_sharded_model": _CHECKPOINT,
    "load_sharded_model": _CHECKPOINT,
    "split_inputs_sequence_dim": _PARALLEL,
    "hybrid_parallel_topo_order": _PARALLEL,
    "minimum_eval_times": "set eval_steps",
    "local_rank": "the launcher tells each process its rank",
    "max_evaluate_steps": "evaluation covers the dev split; use a smaller one or max_samples",
    "dataloader_num_workers": _LOADER,
    "past_index": "no model here returns a past to train on",
    "remove_unused_columns": "a batch has the columns that its stage needs",
    "label_names": "a batch has the columns that its stage needs",
    "ignore_data_skip": "a resumed run sees the data that the interrupted one would have seen",
    "ddp_find_unused_parameters": "every trained weight takes part in every step",
    "auto_parallel_resume_form_hybrid_parallel": _PARALLEL,
    "skip_memory_metrics": "watch memory with the system's own tools",
    "flatten_param_grads": "it is for NPU devices",
    "lazy_data_processing": _LOADER,
    "ordered_save_group_size": _CHECKPOINT,
    "metrics_output_path": "metrics are written to output_dir",
    "skip_profile_timer": "use Paddle's profiler",
    "distributed_dataloader": _LOADER,
    "to_static": "training runs in dynamic graph mode",
    "unified_checkpoint_config": f"{_CHECKPOINT}; for async_save write use_async_save true",
    "ckpt_quant_stage": _CHECKPOINT,
    "ignore_load_lr_and_optim": "to start afresh from weights give them as model_name_or_path or lora_path",
    "ignore_save_lr_and_optim": "every checkpoint can be resumed; use save_strategy no to save the result only",
    "force_reshard_pp": _CHECKPOINT,
    "enable_auto_parallel": _PARALLEL,
    "use_expert_parallel": _PARALLEL,
    "expert_max_capacity": _PARALLEL,
    "expert_min_capacity": _PARALLEL,
    "release_grads": _SPEED,
    "skip_data_intervals": "leave those samples out of the data file",
    "offload_optim": "use LoRA, recompute or adafactor to save memory",
    "save_sharding_stage1_model_include_freeze_params": _CHECKPOINT,
    "pdc_download_ckpt": "download the checkpoint and give its folder as resume_from_checkpoint",
    "pdc_download_timeout": "download the checkpoint and give its folder as resume_from_checkpoint",
    "pad_token_id": "the tokenizer has the pad token",
}
"""Accepted at PaddleNLP's default only; the text says what to do instead."""
