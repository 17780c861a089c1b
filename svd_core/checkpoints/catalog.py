"""Model catalog: the checkpoints that this server offers; the first one is the default."""

from dataclasses import dataclass
from pathlib import Path

from svd_core.checkpoints.table import Checkpoint, find_checkpoint
from svd_core.errors import InvalidRequest, InvalidSettings
from svd_core.settings import on_zero_gpu


@dataclass(frozen=True)
class ModelCatalog:
    """Checkpoints with unique names. `stand_in`: the default while the first of `checkpoints` is
    unavailable."""

    checkpoints: tuple[Checkpoint, ...]
    stand_in: Checkpoint | None = None

    @classmethod
    def from_setting(cls, setting: str, cuda: bool) -> "ModelCatalog":
        """What `SVD_MODEL` names: one checkpoint as `find_checkpoint` takes it, or several, comma
        separated. Nothing is downloaded.

        Raises what `find_checkpoint` raises, and `InvalidSettings` for several that do not go
        together.
        """
        names = [name.strip() for name in setting.split(",")]
        if len(names) == 1 or Path(setting).expanduser().is_dir():
            return cls((find_checkpoint(setting, cuda),))
        if on_zero_gpu():
            raise InvalidSettings(
                "SVD_MODEL names several checkpoints, but ZeroGPU lends its GPU to one that was "
                "loaded before; name that one only."
            )
        if "auto" in names:
            raise InvalidSettings(
                "SVD_MODEL names auto beside others, but auto is whatever suits this machine; "
                "name that checkpoint itself, or auto alone."
            )
        found = cls(tuple(find_checkpoint(name, cuda) for name in names))
        for name in found.names:
            if found.names.count(name) > 1:
                raise InvalidSettings(
                    f"SVD_MODEL names two checkpoints that are called {name}; leave one out, or "
                    "give its folder another name."
                )
        return found

    @property
    def default(self) -> Checkpoint:
        """The checkpoint of requests that name none."""
        return self.stand_in or self.checkpoints[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Names that a request may ask for."""
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    def get(self, name: str | None) -> Checkpoint:
        """The checkpoint called `name`; the default for None.

        Raises `InvalidRequest`: nothing stands in for a checkpoint that was asked for by name.
        """
        if name is None:
            return self.default
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise InvalidRequest(
            "model",
            f"This server has no checkpoint {name!r}; it offers {', '.join(self.names)}.",
        )

    def with_loaded(self, checkpoint: Checkpoint) -> "ModelCatalog":
        """The same, now that `checkpoint` is loaded and its files have told its dials. Nothing
        stands in for the first one any more if it is that."""
        known = tuple(
            checkpoint if old.source == checkpoint.source else old for old in self.checkpoints
        )
        here = checkpoint.source == self.checkpoints[0].source
        return ModelCatalog(known, None if here else self.stand_in)
