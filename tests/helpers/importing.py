"""Options files in the format of BasicSR."""

from typing import Any

ADAM = {"type": "Adam", "lr": 1e-4, "weight_decay": 0, "betas": [0.9, 0.99]}


PAIRS: dict[str, Any] = {
    "name": "pairs x4",
    "model_type": "SRModel",
    "scale": 4,
    "num_gpu": 2,
    "manual_seed": 3,
    "datasets": {
        "train": {
            "type": "PairedImageDataset",
            "dataroot_gt": "data/gt.lmdb",
            "dataroot_lq": "data/lq",
            "filename_tmpl": "{}",
            "io_backend": {"type": "disk"},
            "gt_size": 128,
            "use_hflip": True,
            "use_rot": True,
            "num_worker_per_gpu": 6,
            "batch_size_per_gpu": 16,
            "dataset_enlarge_ratio": 100,
            "prefetch_mode": None,
        },
        "val": {"name": "Set5", "type": "PairedImageDataset", "dataroot_gt": "set5/hr", "dataroot_lq": "set5/lr"},
    },
    "network_g": {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 32, "upscale": 4, "res_scale": 0.1},
    "path": {"pretrain_network_g": "x2.pth", "strict_load_g": False, "resume_state": None},
    "train": {
        "ema_decay": 0.999,
        "optim_g": ADAM,
        "scheduler": {"type": "CosineAnnealingRestartLR", "periods": [10, 10], "restart_weights": [1, 1]},
        "total_iter": 20,
        "warmup_iter": -1,
        "pixel_opt": {"type": "CharbonnierLoss", "loss_weight": 2, "reduction": "mean", "eps": 1e-6},
    },
    "val": {
        "val_freq": 5e3,
        "save_img": False,
        "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True}},
    },
    "logger": {"print_freq": 100, "save_checkpoint_freq": 5e3, "wandb": {"project": None, "resume_id": "a"}},
    "dist_params": {"backend": "nccl", "port": 29500},
}
