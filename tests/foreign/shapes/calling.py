"""Ways of calling a model, and modes to call it in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.foreign.shapes.common import Shape, at, cached, canvas_of, plain
from tests.foreign.shapes.conventions import ByEmbeddings, ByPositionIds, Wrapped
from tests.foreign.shapes.network import Cache, Plain
from tests.foreign.shapes.rows import position_ids


def stars() -> Shape:
    inner = ByPositionIds()
    net, caches = Wrapped(inner), [Cache()]

    def call(x: Tensor, rows: slice) -> Tensor:
        return net(x[:, rows].clone(), data_caches=caches, position_ids=at(rows)[None])

    return Shape(net, inner.model, lambda: cached(call, canvas_of()))


def embeddings() -> Shape:
    net, past = ByEmbeddings(), Cache()

    def call(x: Tensor, rows: slice) -> Tensor:
        embeds = net.model.table(x[:, rows])
        return net(inputs_embeds=embeds, position_ids=at(rows)[None], past=past)

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


def forward_itself() -> Shape:
    net = Plain()
    return Shape(net, net.model, lambda: plain(net.forward, canvas_of()))


class Named(Plain):
    """Returns its logits under a name of its own, beside states."""

    def forward(self, ids: Tensor) -> dict[str, Tensor]:  # pyrefly: ignore[bad-override]
        """Of a whole canvas."""
        scores = super().forward(ids)
        return {"states": scores[..., :4], "scores": scores}


def named_otherwise() -> Shape:
    net = Named()
    return Shape(net, net.model, lambda: plain(lambda x: net(x)["scores"], canvas_of()))


def after_the_states() -> Shape:
    class Second(Plain):
        def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:  # pyrefly: ignore[bad-override]
            scores = super().forward(ids)
            return scores[..., :4], scores

    net = Second()
    return Shape(net, net.model, lambda: plain(lambda x: net(x)[1], canvas_of()))


def inner_attached() -> Shape:
    inner = Plain()
    outer = nn.DataParallel(inner)
    return Shape(inner, inner.model, lambda: plain(outer, canvas_of()))


def outer_attached() -> Shape:
    inner = Plain()
    outer = nn.DataParallel(inner)
    return Shape(outer, inner.model, lambda: plain(inner, canvas_of()))


def inference_mode() -> Shape:
    shape = position_ids()

    def loop() -> Tensor:
        with torch.inference_mode():
            return shape.loop()

    return Shape(shape.model, shape.body, loop)


def autocast() -> Shape:
    net = Plain().float()

    def loop() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain(net, canvas_of())

    return Shape(net, net.model, loop)
