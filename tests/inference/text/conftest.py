"""A CLIP that knows colours and nothing else, so that "a red thing" is really found where something is red."""

import pytest

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 50), "blue": (40, 60, 220), "yellow": (230, 210, 40)}


def draw_discs(discs, size=(120, 160), background=(128, 128, 128)):
    """(H,W,3) uint8 and, per disc (colour, x, y, radius), its mask (H,W) bool."""
    import numpy as np

    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.full((*size, 3), background, dtype=np.uint8)
    masks = []
    for colour, x, y, radius in discs:
        mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        image[mask] = COLOURS[colour]
        masks.append(mask)
    return image, masks


class ColourClip:
    """`ClipEncoder`'s calls; a vector is the mean chroma, and a constant for what has none."""

    image_size, logit_scale, width, revision, name = 32, 20.0, 4, "colours", "colours"
    templates, dense_scale, has_dense_features, logit_bias = ("{}",), 20.0, True, None

    def __init__(self):
        from sam_hf.inference.embedding_store import EmbeddingStore

        self.calls = {"texts": 0, "pictures": 0, "dense": 0}
        self.masks_seen = EmbeddingStore(2**20)

    def texts(self, phrases, templates=("{}",)):
        import torch

        self.calls["texts"] += 1
        named = [[COLOURS[word] for word in phrase.split() if word in COLOURS] for phrase in phrases]
        colours = [torch.tensor(some or [(128, 128, 128)]).float().mean(dim=0) for some in named]
        return self._vectors(torch.stack(colours)) if colours else torch.zeros(0, self.width)

    def pictures(self, pictures, batch_size=32):
        import torch

        self.calls["pictures"] += len(pictures)
        # What CLIP looks at is in the middle rather than in the corners.
        place = torch.linspace(-1, 1, self.image_size)
        weight = torch.exp(-3 * (place[:, None] ** 2 + place**2))
        return self._vectors((pictures.float() * weight).sum(dim=(-2, -1)) / weight.sum())

    def dense(self, picture, attention="nacl", size=None, key=None):
        import torch.nn.functional as F

        self.calls["dense"] += 1
        cells = F.avg_pool2d(picture.float()[None], 8)[0]  # (3,h,w)
        return self._vectors(cells.permute(1, 2, 0)).permute(2, 0, 1)

    def _vectors(self, colours):
        """(...,3) colours -> (...,4) unit vectors."""
        import torch
        import torch.nn.functional as F

        chroma = (colours - colours.mean(dim=-1, keepdim=True)) / 255
        return F.normalize(torch.cat([chroma, torch.full_like(chroma[..., :1], 0.1)], dim=-1), dim=-1)


@pytest.fixture
def colour_clip():
    """A fresh `ColourClip`, which counts its calls."""
    return ColourClip()


@pytest.fixture(scope="session")
def draw():
    """draw([(colour, x, y, radius), ...]) -> (image, masks)."""
    return draw_discs


@pytest.fixture(scope="session")
def tiny():
    """A predictor with the embedded checkpoint."""
    from sam_hf import SamPredictor

    return SamPredictor.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="session")
def ask(tiny):
    """ask(image, phrases, **geometry): a request about a picture (H,W,3)."""
    import torch

    from sam_hf.inference.text.instances import Request

    def make(image, phrases, **more):
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return Request(tiny, tiny.encode(image), pixels, tuple(phrases), **more)

    return make
