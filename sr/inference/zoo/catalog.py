"""The published models that `sr` knows by name.

URLs are those of the projects' releases. Sizes, SHA-256 and licences are from OpenModelDB (2026-08); the SHA-256 of
RealESRNet_x4plus is from the Arch Linux package python-realesrgan. For ESRGAN only the first 8 digits are published, in
the name of the file, as the publishing script of BasicSR writes them; for the discriminators nothing is.
"""

from dataclasses import dataclass

_XINNTAO = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_PHHOFM = "https://github.com/Phhofm/models/releases/download"


@dataclass(frozen=True)
class Published:
    """A model on a server.

    size: bytes; None if unknown. sha256: 64 hex digits, or the first 8 or none where no more are published.
    """

    name: str
    scale: int
    licence: str
    size: int | None
    sha256: str
    url: str
    about: str

    @property
    def file(self) -> str:
        """The name of the file on the server, and in the cache."""
        return self.url.rpartition("/")[2]


CATALOG = (
    Published(
        "RealESRGAN_x4plus",
        4,
        "BSD-3-Clause",
        67040989,
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        f"{_XINNTAO}/v0.1.0/RealESRGAN_x4plus.pth",
        "photographs with blur, noise and JPEG artifacts; RRDBNet, slow without a GPU",
    ),
    Published(
        "RealESRGAN_x2plus",
        2,
        "BSD-3-Clause",
        67061725,
        "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        f"{_XINNTAO}/v0.2.1/RealESRGAN_x2plus.pth",
        "the same for a scale of 2",
    ),
    Published(
        "RealESRNet_x4plus",
        4,
        "BSD-3-Clause",
        67040989,
        "a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df",
        f"{_XINNTAO}/v0.1.1/RealESRNet_x4plus.pth",
        "RealESRGAN_x4plus before its GAN stage: smoother, no invented texture",
    ),
    Published(
        "RealESRGAN_x4plus_anime_6B",
        4,
        "BSD-3-Clause",
        17938799,
        "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        f"{_XINNTAO}/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
        "anime and illustrations; RRDBNet with 6 blocks",
    ),
    Published(
        "realesr-animevideov3",
        4,
        "BSD-3-Clause",
        2504012,
        "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        f"{_XINNTAO}/v0.2.5.0/realesr-animevideov3.pth",
        "anime videos; a small network, fast",
    ),
    Published(
        "realesr-general-x4v3",
        4,
        "BSD-3-Clause",
        4885111,
        "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        f"{_XINNTAO}/v0.2.5.0/realesr-general-x4v3.pth",
        "photographs; a small network, fast, removes noise",
    ),
    Published(
        "realesr-general-wdn-x4v3",
        4,
        "BSD-3-Clause",
        4885111,
        "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        f"{_XINNTAO}/v0.2.5.0/realesr-general-wdn-x4v3.pth",
        "the same with weak denoising; blend it with realesr-general-x4v3",
    ),
    Published(
        "RealESRGANv2-animevideo-xsx2",
        2,
        "BSD-3-Clause",
        2419014,
        "27985aa2198711ecd72f9bb274ec7b164e018fc9ce2933daaa7c7ab36a2bd3fe",
        f"{_XINNTAO}/v0.2.3.0/RealESRGANv2-animevideo-xsx2.pth",
        "anime videos for a scale of 2; a small network, fast",
    ),
    Published(
        "ESRGAN",
        4,
        "Apache-2.0",
        None,
        "ff704c30",
        f"{_XINNTAO}/v0.1.1/ESRGAN_SRx4_DF2KOST_official-ff704c30.pth",
        "clean images reduced by bicubic; the model of the ESRGAN paper",
    ),
    Published(
        "BSRGAN",
        4,
        "Apache-2.0",
        67046751,
        "5d505a0766160921e0388d76e1ddf08cb114303990f9080432bf2b1c988b1c54",
        "https://github.com/cszn/KAIR/releases/download/v1.0/BSRGAN.pth",
        "photographs with blur, noise and JPEG artifacts; RRDBNet",
    ),
    Published(
        "RealESRGAN_x4plus_netD",
        4,
        "BSD-3-Clause",
        None,
        "",
        f"{_XINNTAO}/v0.2.2.3/RealESRGAN_x4plus_netD.pth",
        "the discriminator of RealESRGAN_x4plus, for init.discriminator when fine-tuning",
    ),
    Published(
        "RealESRGAN_x2plus_netD",
        2,
        "BSD-3-Clause",
        None,
        "",
        f"{_XINNTAO}/v0.2.2.3/RealESRGAN_x2plus_netD.pth",
        "the discriminator of RealESRGAN_x2plus",
    ),
    Published(
        "4xNomos2_realplksr_dysample",
        4,
        "CC-BY-4.0",
        29715988,
        "96c8476ed2c42107628d10562b32ae89e7be3c2f7a53d29504823e9bafe8121d",
        f"{_PHHOFM}/4xNomos2_realplksr_dysample/4xNomos2_realplksr_dysample.pth",
        "photographs of good quality; RealPLKSR",
    ),
    Published(
        "4xNomos2_hq_dat2",
        4,
        "CC-BY-4.0",
        140196334,
        "1f2be2b4786b5031776aed90e1818564f5576ab1e44da9355c7f3788ea25bdea",
        f"{_PHHOFM}/4xNomos2_hq_dat2/4xNomos2_hq_dat2.pth",
        "photographs of good quality; DAT-2, a slow transformer",
    ),
)
