"""Settings that are written otherwise and mean the same: they differ, and no cause follows."""

from __future__ import annotations

from faults.specimen import NARROW, WIDE, Pair, against

_SURE = "unmask=threshold"
_ONE_BLOCK = "gen_length=16 block_length=16"

ALIKE: tuple[Pair, ...] = (
    # A cache that renews all rows in every step is none.
    *(
        pair
        for cache in (
            "prefix:refresh_every=1",
            "dual:refresh_every=1",
            "dllm:prompt_every=1,response_every=1",
            "vicinity:before=512,after=512",
        )
        for pair in against(f"{_SURE} cache=none", f"{_SURE} cache={cache}")
    ),
    # Rules that are the threshold's at some value of their own.
    *(
        pair
        for rule in (
            "falling_threshold:value=0.9,alpha=0",
            "credit:value=0.9,alpha=0",
            "local_leap:value=0.9,relaxed=0.9",
            "local_leap:value=0.9,radius=0",
            "dinfer_threshold:value=0.9,slack=0",
        )
        for pair in against(f"{_SURE}:value=0.9", f"unmask={rule}")
    ),
    # What has no effect beside the rest.
    *against(_SURE, f"{_SURE} steps=4"),
    *against(f"{_SURE} seed=1", f"{_SURE} seed=2"),
    *against(_SURE, f"{_SURE} suffix_window=64"),
    *against(_SURE, f"{_SURE} reuse_prefix=true"),
    *against("unmask=fixed", "unmask=fixed:eps=0.1"),
    Pair(f"{NARROW} {_SURE} suffix_window=0", f"{NARROW} {_SURE} growing_canvas=true"),
    Pair(f"{_ONE_BLOCK} {_SURE}", f"{_ONE_BLOCK} {_SURE} growing_canvas=true"),
    Pair(f"{_ONE_BLOCK} {_SURE}", f"{_ONE_BLOCK} {_SURE} suffix_window=0"),
    Pair(f"{WIDE} {_SURE}", f"{WIDE} {_SURE} budget=stop steps=32"),
    Pair(f"{NARROW} {_SURE}", f"{NARROW} {_SURE} budget=stop steps=24"),
    Pair(f"{NARROW} unmask=margin:each=1", f"{NARROW} unmask=margin"),
    # So wide a Gaussian weighs all masks alike.
    Pair(f"{NARROW} unmask=fixed", f"{NARROW} unmask=certainty:sigma=1e9"),
)
"""A and B."""
