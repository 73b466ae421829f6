"""Networks of traiNNer-redux and neosr that spandrel has too: their names, and the sizes that the names stand for.

Only what differs from the defaults of spandrel's constructors is listed. The sizes are those of the published models.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Network(NamedTuple):
    """type: of sr. renamed: their key -> ours.

    implied: keys that have a counterpart only where they have this value."""

    type: str
    sizes: dict[str, Any]
    renamed: Mapping[str, str] = MappingProxyType({})
    implied: Mapping[str, Any] = MappingProxyType({})


def _spandrel(architecture: str, **sizes: Any) -> Network:
    return Network(f"spandrel.{architecture}", sizes)


def _real_plksr(**sizes: Any) -> Network:
    network = _spandrel("RealPLKSR", **sizes)
    return network._replace(implied={"upsampler": "pixelshuffle"})


_SIX = [6] * 6
_TWELVE = [6] * 12
_SWIN: dict[str, Any] = {"embed_dim": 180, "depths": _SIX, "num_heads": _SIX, "window_size": 8, "mlp_ratio": 2.0}
_SWIN_SMALL = _SWIN | {"embed_dim": 60, "depths": [6] * 4, "num_heads": [6] * 4, "upsampler": "pixelshuffledirect"}
_SWIN_LARGE = _SWIN | {"embed_dim": 240, "depths": [6] * 9, "num_heads": [8] * 9, "upsampler": "nearest+conv"}
_SWIN_LARGE |= {"resi_connection": "3conv"}
_HAT: dict[str, Any] = {"embed_dim": 180, "depths": _SIX, "num_heads": _SIX, "window_size": 16, "mlp_ratio": 2.0}
_DAT: dict[str, Any] = {"split_size": [8, 32], "depth": _SIX, "num_heads": _SIX, "expansion_factor": 2.0}
_DAT_LIGHT: dict[str, Any] = {"depth": [18], "num_heads": [6], "embed_dim": 60, "resi_connection": "3conv"}
_ATD: dict[str, Any] = {
    "embed_dim": 210,
    "depths": _SIX,
    "num_heads": _SIX,
    "window_size": 16,
    "num_tokens": 128,
    "reducted_dim": 20,
}
_ATD_LIGHT: dict[str, Any] = {
    "embed_dim": 48,
    "window_size": 16,
    "category_size": 128,
    "reducted_dim": 8,
    "convffn_kernel_size": 7,
}
_GRL: dict[str, Any] = {"window_size": 32, "stripe_size": [64, 64], "stripe_shift": True, "mlp_ratio": 2.0}
_GRL |= {"anchor_window_down_factor": 4, "upsampler": "pixelshuffle"}
_GRL_FOUR: dict[str, Any] = {"depths": [4] * 4, "num_heads_window": [2] * 4, "num_heads_stripe": [2] * 4}
_RGT: dict[str, Any] = {"split_size": [8, 32], "mlp_ratio": 2.0}
_DRCT: dict[str, Any] = {"upsampler": "pixelshuffle"}
_ESRGAN: dict[str, Any] = {
    "num_filters": "num_feat",
    "num_blocks": "num_block",
    "in_nc": "num_in_ch",
    "out_nc": "num_out_ch",
}
_ESRGAN |= {"use_pixel_unshuffle": "unshuffle"}

NETWORKS: dict[str, Network] = {
    "esrgan": Network("rrdbnet", {}, renamed=_ESRGAN),
    "esrgan_lite": Network("rrdbnet", {"num_feat": 32, "num_block": 12}, renamed=_ESRGAN),
    "compact": Network("compact", {}),
    "ultracompact": Network("compact", {"num_conv": 8}),
    "superultracompact": Network("compact", {"num_feat": 24, "num_conv": 8}),
    "atd": _spandrel("ATD", **_ATD, upsampler="pixelshuffle"),
    "atd_light": _spandrel("ATD", **_ATD_LIGHT, mlp_ratio=1.0, upsampler="pixelshuffledirect"),
    "craft": _spandrel("CRAFT"),
    "dat": _spandrel("DAT", **(_DAT | {"expansion_factor": 4.0})),
    "dat_m": _spandrel("DAT", **(_DAT | {"expansion_factor": 4.0})),
    "dat_s": _spandrel("DAT", **(_DAT | {"split_size": [8, 16]})),
    "dat_2": _spandrel("DAT", **_DAT),
    "dat_light": _spandrel(
        "DAT", **(_DAT | {"depth": [18], "num_heads": [6], "embed_dim": 60, "resi_connection": "3conv"})
    ),
    "dctlsa": _spandrel("DCTLSA"),
    "ditn": _spandrel("DITN"),
    "ditn_real": _spandrel("DITN"),
    "drct": _spandrel("DRCT", **_DRCT),
    "drct_l": _spandrel("DRCT", **_DRCT, depths=_TWELVE, num_heads=_TWELVE),
    "drct_xl": _spandrel("DRCT", **_DRCT, depths=[6] * 14, num_heads=[6] * 14),
    "fdat": _spandrel("FDAT"),
    "fdat_tiny": _spandrel(
        "FDAT",
        embed_dim=96,
        num_groups=2,
        depth_per_group=2,
        num_heads=3,
        ffn_expansion_ratio=1.5,
        drop_path_rate=0.05,
    ),
    "fdat_light": _spandrel("FDAT", embed_dim=108, num_groups=3, depth_per_group=2, drop_path_rate=0.08),
    "fdat_medium": _spandrel("FDAT"),
    "fdat_large": _spandrel("FDAT", embed_dim=180, depth_per_group=4, num_heads=6),
    "fdat_xl": _spandrel("FDAT", embed_dim=180, num_groups=6, depth_per_group=6, num_heads=6),
    "grl_t": _spandrel("GRL", **(_GRL | _GRL_FOUR | {"embed_dim": 64, "upsampler": "pixelshuffledirect"})),
    "grl_s": _spandrel("GRL", **_GRL, **_GRL_FOUR, embed_dim=128),
    "grl_b": _spandrel(
        "GRL",
        **_GRL,
        embed_dim=180,
        depths=[4, 4, 8, 8, 8, 4, 4],
        num_heads_window=[3] * 7,
        num_heads_stripe=[3] * 7,
        local_connection=True,
    ),
    "hat_s": _spandrel("HAT", **(_HAT | {"embed_dim": 144, "compress_ratio": 24, "squeeze_factor": 24})),
    "hat_m": _spandrel("HAT", **_HAT),
    "hat_l": _spandrel("HAT", **(_HAT | {"depths": _TWELVE, "num_heads": _TWELVE})),
    "moesr": _spandrel("MoESR"),
    "moesr2": _spandrel("MoESR"),
    "omnisr": _spandrel("OmniSR", res_num=5)._replace(renamed={"upsampling": "up_scale"}),
    "plksr": _spandrel("PLKSR", ccm_type="DCCM"),
    "plksr_tiny": _spandrel("PLKSR", ccm_type="DCCM", n_blocks=12, kernel_size=13, use_ea=False),
    "realplksr": _real_plksr(layer_norm=True),
    "realplksr_tiny": _real_plksr(layer_norm=True, n_blocks=12, kernel_size=13, use_ea=False),
    "realplksr_large": _real_plksr(layer_norm=True, dim=96),
    "rcan": _spandrel("RCAN", norm=False),
    "rcan_unshuffle": _spandrel("RCAN", norm=False, unshuffle_mod=True),
    "rgt": _spandrel("RGT", **_RGT, depth=[6] * 8, num_heads=[6] * 8),
    "rgt_s": _spandrel("RGT", **_RGT, depth=_SIX, num_heads=_SIX),
    "safmn": _spandrel("SAFMN", dim=36),
    "safmn_l": _spandrel("SAFMN", dim=128, n_blocks=16),
    "seemore_t": _spandrel("SeemoRe", num_experts=3, embedding_dim=36, lr_space="exp"),
    "span": _spandrel("SPAN", feature_channels=52, norm=False),
    "span_s": _spandrel("SPAN", norm=False),
    "swin2sr_s": _spandrel("Swin2SR", **_SWIN_SMALL),
    "swin2sr_m": _spandrel("Swin2SR", **_SWIN, upsampler="pixelshuffle"),
    "swin2sr_l": _spandrel("Swin2SR", **_SWIN_LARGE),
    "swinir_s": _spandrel("SwinIR", **_SWIN_SMALL),
    "swinir_small": _spandrel("SwinIR", **_SWIN_SMALL),
    "swinir_m": _spandrel("SwinIR", **_SWIN, upsampler="pixelshuffle"),
    "swinir_medium": _spandrel("SwinIR", **_SWIN, upsampler="pixelshuffle"),
    "swinir_l": _spandrel("SwinIR", **_SWIN_LARGE),
    "swinir_large": _spandrel("SwinIR", **_SWIN_LARGE),
}
NEOSR: dict[str, Network] = NETWORKS | {
    "span": _spandrel("SPAN", norm=False, img_range=1.0, rgb_mean=[0.5, 0.5, 0.5]),
    "realplksr": _real_plksr(),
    "realplksr_s": _real_plksr(n_blocks=12, kernel_size=13, use_ea=False),
    "realplksr_l": _real_plksr(dim=96),
    "drct_s": _spandrel("DRCT", **_DRCT, embed_dim=48, depths=[2] * 4, num_heads=[6] * 4),
}
"""The same names where neosr means other sizes."""
