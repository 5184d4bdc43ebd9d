"""Read config.json: what the published LLaDA code would compute, or why Skipstone does not.

Every key is one of four things. It is *read* into the ``ModelConfig``, under each of its published
spellings; it is *computed in one way only* (``SUPPORTED``), so that any other value is refused by
name; it *changes nothing* at inference (``HARMLESS``); or it is *unknown*, and then refused unless
it is null, since it might decide the arithmetic. Two spellings that disagree are refused. A missing
key means what the published class takes; where that would be another architecture, and for what no
weight can confirm (``rope_theta``, ``rms_norm_eps``, ``weight_tying``), it has to be written.
"""

from __future__ import annotations

from pathlib import Path

from skipstone.errors import CheckpointError, nearest
from skipstone.files import read_json
from skipstone.models.base import ModelConfig
from skipstone.models.config_keys import HARMLESS, MISSING, READ, SPELLINGS, SUPPORTED
from skipstone.models.family import check_family
from skipstone.models.folder import CONFIG, check_folder
from skipstone.quoting import cut, shown

_ROPE = ("rope_parameters", "rope_scaling")

# More than any count or width of a model: products of three still are numbers of bytes.
_WIDEST = 1 << 24
# The rotary tables have this many rows; no LLaDA comes near it, and a typing error must not take
# all memory.
_LONGEST = 1 << 20


class _Fields:
    """Typed access to config.json with errors that name the file, the key and the value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json(path)

    def integer(
        self, key: str, default: int | None = None, least: int = 1, most: int = _WIDEST
    ) -> int:
        name, value = self._get(key, default)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and least <= value <= most:
            return value
        upper = f" and at most {most}" if whole and value > most else ""
        raise self._wrong(name, value, f"an integer of at least {least}{upper}")

    def number(self, key: str) -> float:
        return self._number(*self._get(key, None))

    def flag(self, key: str) -> bool:
        """A flag that has to be written; null is false, as in the published code."""
        written = any(name in self.values for name in (key, *SPELLINGS.get(key, ())))
        name, value = self._get(key, False if written else None)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def theta(self) -> float:
        """The base of the rotary embedding, which may lie in a table of its own."""
        tables = {name: self._rope_table(name) for name in _ROPE}
        inner = {f"{n}.rope_theta": t["rope_theta"] for n, t in tables.items() if "rope_theta" in t}
        return self._number(*self._one(self._spelled("rope_theta") | inner, "rope_theta", None))

    def refuse(self, problem: str) -> CheckpointError:
        """An error about this file."""
        return CheckpointError(f"{self.path}: {problem}")

    def _rope_table(self, name: str) -> dict[str, object]:
        """The settings of the rotary embedding, of which only the plain kind is computed."""
        table = self.values.get(name)
        if table is None:
            return {}
        if not isinstance(table, dict):
            raise self._wrong(name, table, "null or a table with rope_type and rope_theta")
        plain = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1, "factor": 1}
        stated = {key: value for key, value in table.items() if value is not None}
        for key, value in stated.items():
            if key in plain and not is_same(value, plain[key]):
                raise self.refuse(
                    f"unsupported settings: {name} has {key}={shown(value)} (must be "
                    f"{plain[key]!r}); scaled rotary embeddings are not computed, use a dense "
                    f"LLaDA checkpoint"
                )
            if key not in (*plain, "rope_theta", "original_max_position_embeddings"):
                raise self.refuse(
                    f"{name} has {cut(key)}={shown(value)}, which is unknown; {_UNKNOWN}"
                )
        return stated

    def _get(self, key: str, default: object) -> tuple[str, object]:
        return self._one(self._spelled(key), key, default)

    def _spelled(self, key: str) -> dict[str, object]:
        """The values of ``key`` by spelling; files also write null for what they leave open."""
        names = (key, *SPELLINGS.get(key, ()))
        return {n: self.values[n] for n in names if self.values.get(n) is not None}

    def _one(self, spelled: dict[str, object], key: str, default: object) -> tuple[str, object]:
        """Name and value of the one thing that all spellings say."""
        (name, value), *others = spelled.items() or [(key, default)]
        for other, contrary in others:
            if not is_same(contrary, value):
                raise self.refuse(
                    f"{name}={shown(value)} and {other}={shown(contrary)} contradict each other; "
                    f"keep the one that the weights were trained with"
                )
        return name, value

    def _number(self, key: str, value: object) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # Not every whole number fits into a float.
        if number and 0 < value < 1e300:
            return float(value)
        raise self._wrong(key, value, "a positive, finite number")

    def _wrong(self, key: str, value: object, rule: str) -> CheckpointError:
        found = "missing" if value is None else shown(value)
        return self.refuse(
            f"{key} is {found}, must be {rule}; copy config.json from the published checkpoint"
        )


_UNKNOWN = (
    "it might change what the model computes: if it does not, remove it from config.json; else "
    "use a dense LLaDA checkpoint"
)


def is_same(stated: object, meant: object) -> bool:
    """Whether two values of a file are one; true is no number there, and 1 does not say true."""
    return stated == meant and isinstance(stated, bool) == isinstance(meant, bool)


def read_config(directory: Path) -> ModelConfig:
    """Read config.json and check that it describes a dense LLaDA.

    Raises:
        CheckpointError: the folder holds no model, the file is missing or broken, names another
            architecture, or has a key that is not computed as it says.
    """
    check_folder(directory)
    fields = _Fields(directory / CONFIG)
    check_family(fields.path, fields.values)
    _check_supported(fields)
    heads = fields.integer("n_heads")
    vocab = fields.integer("vocab_size")
    config = ModelConfig(
        width=fields.integer("d_model"),
        num_layers=fields.integer("n_layers"),
        num_heads=heads,
        num_kv_heads=_kv_heads(fields, heads),
        mlp_width=_mlp_width(fields),
        vocab_size=fields.integer("embedding_size", vocab),
        max_length=fields.integer("max_sequence_length", most=_LONGEST),
        rope_theta=fields.theta(),
        norm_eps=fields.number("rms_norm_eps"),
        tied_head=fields.flag("weight_tying"),
        mask_id=fields.integer("mask_token_id", least=0),
        eos_id=fields.integer("eos_token_id", least=0),
    )
    _check_shape(config, fields, vocab)
    _check_unknown(fields)
    return config


def _check_supported(fields: _Fields) -> None:
    values = fields.values
    wrong = [
        f"{key}={shown(values[key])} (must be {_wanted(key)})"
        if key in values
        else f"{key} is missing (must be {_wanted(key)})"
        for key, wanted in SUPPORTED.items()
        if not any(is_same(values.get(key, MISSING), value) for value in wanted)
    ]
    if wrong:
        raise fields.refuse(
            f"unsupported settings: {', '.join(wrong)}; use a dense LLaDA checkpoint"
        )


def _wanted(key: str) -> str:
    """The values of a key that mean what is computed."""
    first = next(value for value in SUPPORTED[key] if value is not MISSING)
    return "null" if first is None else repr(first)


def _check_unknown(fields: _Fields) -> None:
    known = READ | HARMLESS | SUPPORTED.keys()
    for key, value in fields.values.items():
        if value is None or key in known or key.startswith("_") or key.endswith("_version"):
            continue
        close = nearest(key, READ | SUPPORTED.keys())
        meant = f" ({close})" if close.startswith("did") else ""
        raise fields.refuse(f"{cut(key)}={shown(value)} is unknown{meant}; {_UNKNOWN}")


def _kv_heads(fields: _Fields, heads: int) -> int:
    """Key and value heads, by either of the two keys that say how many there are."""
    shared = fields.values.get("multi_query_attention")
    if shared is None:
        return fields.integer("n_kv_heads", heads)
    implied = 1 if fields.flag("multi_query_attention") else heads
    stated = fields.integer("n_kv_heads", implied)
    if stated != implied:
        raise fields.refuse(
            f"multi_query_attention={shown(shared)} and n_kv_heads={stated} contradict each other; "
            f"keep the one that the weights were trained with"
        )
    return stated


def _mlp_width(fields: _Fields) -> int:
    """Width of the MLP; a multiple of the model's if only that is written."""
    stated = any(fields.values.get(k) is not None for k in ("mlp_hidden_size", "intermediate_size"))
    if stated or fields.values.get("mlp_ratio") is None:
        return fields.integer("mlp_hidden_size")
    return fields.integer("mlp_ratio", most=1 << 10) * fields.integer("d_model")


def _check_shape(config: ModelConfig, fields: _Fields, vocab: int) -> None:
    if config.width % config.num_heads or config.head_width % 2:
        raise fields.refuse(
            f"d_model {config.width} over n_heads {config.num_heads} gives no even head width, "
            f"which rotary embedding needs; check both"
        )
    if fields.integer("head_dim", config.head_width) != config.head_width:
        raise fields.refuse(
            f"head_dim={shown(fields.values['head_dim'])} contradicts d_model {config.width} over "
            f"n_heads {config.num_heads}, which gives {config.head_width}; heads of another width "
            f"are not computed"
        )
    if config.num_heads % config.num_kv_heads:
        raise fields.refuse(
            f"n_heads {config.num_heads} is not a multiple of n_kv_heads {config.num_kv_heads}; "
            f"check both"
        )
    if config.vocab_size < vocab:
        raise fields.refuse(
            f"embedding_size {config.vocab_size} is less than vocab_size {vocab}; copy config.json "
            f"from the published checkpoint"
        )
    for key, value in (("mask_token_id", config.mask_id), ("eos_token_id", config.eos_id)):
        if value >= config.vocab_size:
            raise fields.refuse(
                f"{key} is {value}, outside the vocabulary of {config.vocab_size}; copy "
                f"config.json from the published checkpoint"
            )
    if config.mask_id == config.eos_id:
        raise fields.refuse(
            f"mask_token_id and eos_token_id are both {config.mask_id}, must differ; copy "
            f"config.json from the published checkpoint"
        )
