"""Muon for the matrices, AdamW for the rest, and a learning rate that falls when time runs out."""

import torch

from precision import HAS_BFLOAT16


@torch.no_grad()
def orthogonalise(matrix, steps=5):
    """The nearest matrix with singular values near one, by Newton and Schulz's iteration
    with the coefficients of Jordan et al. 2024."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    if x.is_cuda or HAS_BFLOAT16:
        x = x.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; a fused query-key-value matrix in three parts."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self, each=lambda work, items: [work(item) for item in items]):
        """`each` runs a function over groups of matrices; it may do several at once."""
        for group in self.param_groups:
            for p in group["params"]:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            each(lambda ps, group=group: self._update(ps, group), self._sets(group["params"]))

    @staticmethod
    def _sets(params):
        """On a GPU all matrices of one shape together, elsewhere each on its own."""
        if not params[0].is_cuda:
            return [[p] for p in params]
        shapes = {}
        for p in params:
            shapes.setdefault(p.shape, []).append(p)
        return list(shapes.values())

    @torch.no_grad()
    def _update(self, params, group):
        rows, columns = params[0].shape
        slopes = [p.grad for p in params]
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, slopes)
        update = torch.stack(slopes) + group["momentum"] * torch.stack(momenta)
        height = columns if rows == 3 * columns else rows
        update = orthogonalise(update.view(-1, height, columns)).view(-1, rows, columns)
        scale = group["lr"] * max(1.0, height / columns) ** 0.5
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(update.to(params[0].dtype)), alpha=-scale)


def make_optimizers(model, args):
    """Muon for every matrix of the layers, AdamW for embeddings, norms and biases."""
    matrices, tables, vectors = [], [], []
    for name, p in model.named_parameters():
        if "layers" in name and p.ndim == 2:
            matrices.append(p)
        else:
            (tables if p.ndim == 2 else vectors).append(p)
    muon = Muon(matrices, lr=args.matrix_lr, weight_decay=args.weight_decay)
    adam = torch.optim.AdamW(
        [{"params": tables, "lr": args.table_lr}, {"params": vectors, "lr": args.vector_lr}],
        betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0, fused=tables[0].is_cuda)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return [muon, adam]


def set_rate(optimizers, factor):
    """Sets every group's learning rate to a part of its full one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor
