"""CogView's VQ-VAE, stride 6 in the form that is not "simple", with residual blocks."""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

MEAN = (0.79093, 0.76271, 0.7534)
STD = (0.30379, 0.32279, 0.328)


@dataclass
class Shape:
    """The keys of vqvae/config.json."""

    channel: int = 96
    n_res_block: int = 2
    n_res_channel: int = 48
    embed_dim: int = 64
    n_embed: int = 1024
    stride: int = 6
    simple: bool = False

    def as_dict(self):
        return asdict(self)


class Residual(nn.Module):
    """Adds to relu(x), not to x: the original's relu works in place."""

    def __init__(self, channel, inner):
        super().__init__()
        self.conv = nn.Sequential(nn.ReLU(), nn.Conv2d(channel, inner, 3, padding=1), nn.ReLU(),
                                  nn.Conv2d(inner, channel, 1))

    def forward(self, x):
        x = F.relu(x)
        return self.conv(x) + x


class Blocks(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x)


class Quantizer(nn.Module):
    """The codes: column i of `embed` is code i. Training moves them to the running mean of the
    features that chose them (van den Oord et al. 2017, appendix A.1)."""

    def __init__(self, width, codes, decay=0.99):
        super().__init__()
        self.decay = decay
        self.register_buffer("embed", torch.randn(width, codes))
        self.register_buffer("cluster_size", torch.ones(codes))
        self.register_buffer("embed_avg", self.embed.clone())

    def nearest(self, flat):
        """Code of each row of [n, width]."""
        distance = (self.embed**2).sum(0) - 2 * flat @ self.embed
        return distance.argmin(1)

    @torch.no_grad()
    def update(self, flat, codes):
        """One step of the running means; a code that nothing chooses moves to a random feature."""
        count = torch.bincount(codes, minlength=len(self.cluster_size)).float()
        total = torch.zeros_like(self.embed.T).index_add_(0, codes, flat).T
        self.cluster_size.lerp_(count, 1 - self.decay)
        self.embed_avg.lerp_(total, 1 - self.decay)
        dead = (self.cluster_size < 0.02).nonzero()[:, 0]
        if len(dead):
            chosen = flat[torch.randint(len(flat), (len(dead),))]
            self.cluster_size[dead] = 1
            self.embed_avg[:, dead] = chosen.T
        self.embed.copy_(self.embed_avg / self.cluster_size.clamp(min=1e-5))

    @torch.no_grad()
    def cluster(self, flat, rounds=8):
        """Sets the codes by k-means over [n, width]."""
        self.embed.copy_(flat[torch.randperm(len(flat))[:self.embed.shape[1]]].T)
        for _ in range(rounds):
            codes = self.nearest(flat)
            count = torch.bincount(codes, minlength=len(self.cluster_size)).float()
            total = torch.zeros_like(self.embed.T).index_add_(0, codes, flat).T
            empty = count == 0
            total[:, empty] = flat[torch.randint(len(flat), (int(empty.sum()),))].T
            self.embed.copy_(total / count.clamp(min=1))
        self.cluster_size.fill_(1)
        self.embed_avg.copy_(self.embed)


class VqVae(nn.Module):
    """Pictures in and out are [n, 3, side, side], normalised by `normalise`."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        c, e = shape.channel, shape.embed_dim

        def residuals():
            return [Residual(c, shape.n_res_channel) for _ in range(shape.n_res_block)]

        self.enc_b = Blocks(nn.Conv2d(3, c // 4, 4, 2, 1), nn.ReLU(),
                            nn.Conv2d(c // 4, c // 2, 4, 2, 1), nn.ReLU(),
                            nn.Conv2d(c // 2, c, 4, 2, 1), *residuals(), nn.ReLU(),
                            nn.Conv2d(c, e, 1))
        self.quantize_t = Quantizer(e, shape.n_embed)
        self.dec = Blocks(nn.ConvTranspose2d(e, c, 4, 2, 1), *residuals(), nn.ReLU(),
                          nn.ConvTranspose2d(c, c, 4, 2, 1), nn.ReLU(),
                          nn.ConvTranspose2d(c, c // 2, 1), nn.ReLU(),
                          nn.ConvTranspose2d(c // 2, 3, 4, 2, 1))

    def features(self, pictures):
        """[n, grid, grid, embed_dim]"""
        return self.enc_b(pictures).permute(0, 2, 3, 1)

    def encode(self, pictures):
        """Codes [n, grid * grid], row-major."""
        z = self.features(pictures)
        return self.quantize_t.nearest(z.flatten(0, 2)).view(len(z), -1)

    def decode(self, codes):
        """Pictures of codes [n, grid * grid]."""
        side = int(codes.shape[1] ** 0.5)
        z = F.embedding(codes, self.quantize_t.embed.T).view(len(codes), side, side, -1)
        return self.dec(z.permute(0, 3, 1, 2))

    def forward(self, pictures, quantize):
        """(reconstruction, commitment loss, flat features, their codes); without `quantize` the
        features go to the decoder as they are, and there are no codes."""
        z = self.features(pictures)
        flat = z.flatten(0, 2)
        if not quantize:
            return self.dec(z.permute(0, 3, 1, 2)), z.new_zeros(()), flat.detach(), None
        codes = self.quantize_t.nearest(flat.detach())
        near = F.embedding(codes, self.quantize_t.embed.T)
        commitment = F.mse_loss(flat, near)
        through = (flat + (near - flat).detach()).view(z.shape)
        return self.dec(through.permute(0, 3, 1, 2)), commitment, flat.detach(), codes


def normalise(pictures):
    """uint8 [n, side, side, 3], a tensor, to [n, 3, side, side]."""
    x = pictures.float() / 255
    x = (x - x.new_tensor(MEAN)) / x.new_tensor(STD)
    return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def to_pixels(pictures):
    """The inverse, clamped, as the runtime writes pictures."""
    x = pictures.permute(0, 2, 3, 1)
    x = (x * x.new_tensor(STD) + x.new_tensor(MEAN)).clamp(0, 1)
    return (x * 255 + 0.5).to(torch.uint8)
