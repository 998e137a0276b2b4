"""What a type checker must say of programs that use the package. Where types were lost, an error that
is expected here would not come, and mypy complains of that."""

from __future__ import annotations

import qianyi


def blocking(client: qianyi.Client) -> None:
    text: str = client.poem("春", form="七绝", seed=7).text
    seed: str = client.poem("春").seed  # type: ignore[assignment]
    client.poem(5)  # type: ignore[arg-type]
    client.poem("春", forms="七绝")  # type: ignore[call-arg]
    for piece in client.stream_chat("春"):
        text += piece.text
        text += piece.index  # type: ignore[operator]
    vectors: tuple[tuple[float, ...], ...] = client.embed(["春", [1, 2]]).vectors
    vectors = client.tokenize("春")  # type: ignore[assignment]
    print(text, seed, vectors)


async def waiting(client: qianyi.AsyncClient) -> None:
    text: str = (await client.qa("李白是谁？")).text
    client.qa("李白是谁？").text  # type: ignore[attr-defined]
    async with client.stream_image("猫") as stream:
        async for event in stream:
            event.image  # type: ignore[union-attr]
            if isinstance(event, qianyi.Pictures):
                print(event.images[0].seed, text)
