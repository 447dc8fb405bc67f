"""Check on one batch that a JEPA objective can train an encoder."""

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_ssl.encoders import unfit_signature
from jepa_ssl.instances import FlatVectors, Graph
from jepa_ssl.names import unwrapped
from jepa_ssl.protocols import INSTANCE, Embeddings, Encoded, ViewMaker, Views
from jepa_ssl.teachers.copies import without_graph
from jepa_ssl.testing.batches import batch_size, parts_of, selected
from jepa_ssl.testing.gradient import fault_in_gradient, of_trunk
from jepa_ssl.testing.in_view import read_in_view
from jepa_ssl.testing.rewritten import Rewritten, written_otherwise


class EncoderCheck:
    """Collect the faults of an encoder, one sentence each."""

    def __init__(self, encoder: Any, instance: Any) -> None:
        self.encoder, self.instance = encoder, instance
        self.faults: list[str] = []

    def run(
        self,
        views: ViewMaker[Any] | None,
        trunk: nn.Module | None,
        rewritten: Rewritten | None,
        in_view: Collection[str] = (),
    ) -> None:
        self._check_call()
        asleep = None if self.faults else self._copied()
        if asleep is None:
            return
        tensors = _tensors_of(self.instance)
        versions = [tensor._version for tensor in tensors]
        encoded = _encoded(asleep, self.instance)
        embeddings = encoded.embeddings
        if versions != [tensor._version for tensor in tensors]:
            self.faults.append("the encoder writes to its input batch; let it work on a copy.")
        self._check_shapes(embeddings, encoded.valid)
        if self.faults or not self._check_copies(asleep, embeddings):
            return
        again = _embedded(asleep, self.instance, seed=1)
        if not all(torch.equal(embeddings[stream], again[stream]) for stream in embeddings):
            self.faults.append(
                "in eval mode two passes over one batch differ, so a teacher's targets would change from pass to pass; "
                "turn off what is random, such as F.dropout(x) without training=self.training."
            )
            return
        self._check_gradient(trunk)
        for what, (instance, items) in self._rewritten(rewritten).items():
            self._check_same(what, embeddings, _embedded(asleep, instance), items)
        self._check_alone(asleep, embeddings)
        if views is not None:
            made = views(self.instance, generator=torch.Generator(_device(embeddings)).manual_seed(0))
            for each in made if isinstance(made, tuple) else (made,):
                self._check_views(asleep, embeddings, each)
                if not self.faults:
                    self.faults += read_in_view(self.instance, each, lambda view: _embedded(asleep, view), in_view)

    def _check_call(self) -> None:
        if not callable(self.encoder):
            self.faults.append(
                f"the encoder is {self.encoder!r}, but must be a module or a function; pass the encoder itself."
            )
        elif given := unfit_signature(getattr(unwrapped(self.encoder), "forward", self.encoder), 1):
            self.faults.append(
                f"the encoder takes {given}, but is called with the instance alone; give it one argument, as "
                f"ModelEncoder(model, widths, dim, run=lambda model, instance: model(...)) does."
            )
        elif isinstance(self.instance, Tensor | FlatVectors | Graph) and not batch_size(self.instance):
            self.faults.append("the batch is empty, so nothing can be checked; give at least two instances.")

    def _copied(self) -> Callable[[Any], Embeddings | Encoded] | None:
        """Return a copy in eval mode, like a teacher's; a callable that is not a module is not copied."""
        if not isinstance(self.encoder, nn.Module):
            return self.encoder
        try:
            return copy.deepcopy(self.encoder, without_graph(self.encoder)).eval()
        except Exception as error:
            self.faults.append(
                f"the encoder cannot be copied, so EMATeacher cannot follow it: {type(error).__name__}: {error}"
            )
            return None

    def _check_shapes(self, embeddings: Embeddings, valid: Mapping[str, Tensor]) -> None:
        given: Any = embeddings  # of an unknown type
        values: list[Any] = list(embeddings.values()) if isinstance(given, Mapping) else []
        if not values or not all(isinstance(z, Tensor) for z in values):
            self.faults.append(
                f"the encoder returns a {type(embeddings).__name__}, but must return stream -> embeddings, a dict of "
                f"tensors, or Encoded."
            )
            return
        expected = _expected(self.instance)
        for stream, z in embeddings.items():
            real = z[valid[stream]] if stream in valid else z
            if z.ndim != 2 or not z.is_floating_point():
                self.faults.append(f"stream {stream!r} is {z.dtype} {list(z.shape)}, but must be floats [items, dim].")
            elif stream in expected and len(z) != expected[stream]:
                counts = ", ".join(f"{count} of {kind!r}" for kind, count in expected.items())
                self.faults.append(
                    f"stream {stream!r} has {len(z)} embeddings, but the batch has {counts}; return one row per "
                    f"item, and pool only for the stream 'instance'."
                )
            elif not bool(real.isfinite().all()):
                self.faults.append(f"stream {stream!r} has embeddings that are infinite or NaN.")
            elif len(real) > 1 and bool((real == real[0]).all()):
                self.faults.append(
                    f"all {len(real)} embeddings of stream {stream!r} are equal: the encoder does not look at the "
                    f"instance, or its last layer starts at zero."
                )

    def _check_copies(self, encoder: Any, embeddings: Embeddings) -> bool:
        """Check that a copy of the encoder runs only its own weights."""
        if not isinstance(encoder, nn.Module):
            return True
        other = copy.deepcopy(encoder, without_graph(encoder))
        with torch.no_grad():
            for parameter in (p for _, p in of_trunk(other) if p.is_floating_point()):
                parameter.add_(torch.linspace(0.5, 1.5, parameter.numel(), device=parameter.device).view_as(parameter))
        changed, unchanged = (_embedded(each, self.instance) for each in (other, encoder))
        if not all(torch.equal(embeddings[stream], unchanged[stream]) for stream in embeddings):
            self.faults.append(
                "a copy of the encoder shares weights with it: what trains one moves the other; keep modules and "
                "tensors as attributes, where copy.deepcopy finds them."
            )
            return False
        if any(True for _ in of_trunk(other)) and all(
            torch.equal(embeddings[stream], changed[stream]) for stream in embeddings
        ):
            self.faults.append(
                "a copy of the encoder whose weights were all changed still gives the old embeddings: the encoder "
                "calls a model captured in a closure, so a copy shares its weights; store the model as an attribute."
            )
            return False
        return True

    def _check_gradient(self, trunk: nn.Module | None) -> None:
        if isinstance(self.encoder, nn.Module):
            fault = fault_in_gradient(self.encoder, trunk, lambda encoder: _embedded(encoder, self.instance))
            self.faults += [fault] if fault else []
        elif not all(z.requires_grad for z in _embedded(self.encoder, self.instance).values()):
            self.faults.append("the embeddings carry no gradient; is the encoder called under torch.no_grad()?")

    def _rewritten(self, given: Rewritten | None) -> Rewritten:
        if given is not None and not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            self.faults.append(
                f"rewritten is a {type(given).__name__}, but must map a description of what differs to the batch and "
                f"its items; give rewritten={{'the order': in_another_order(batch)}}, for example."
            )
            given = None
        return {**written_otherwise(self.instance), **(given or {})}

    def _check_same(self, what: str, before: Embeddings, after: Embeddings, items: Mapping[str, Tensor]) -> None:
        if not before.keys() & items.keys():
            self.faults.append(
                f"{what}: the items belong to {sorted(items)}, but the encoder returns {sorted(before)}, so nothing "
                f"can be compared; give the items of these streams."
            )
        for stream in before.keys() & items.keys():
            expected, places = before[stream], items[stream].to(after[stream].device)
            if places.shape != expected.shape[:1] or not bool((places.abs() < max(len(after[stream]), 1)).all()):
                self.faults.append(
                    f"stream {stream!r} has {len(expected)} embeddings, and {len(after[stream])} where {what} is "
                    f"different, but rewritten gives {len(places)} places of its items; give the place of each item."
                )
            elif not _close(expected, after[stream][places]):
                self.faults.append(
                    f"stream {stream!r} depends on {what}: the embeddings of the same items change with it."
                )

    def _check_alone(self, encoder: Any, embeddings: Embeddings) -> None:
        if not isinstance(self.instance, Tensor | FlatVectors | Graph) or batch_size(self.instance) < 2:
            return
        alone = _embedded(encoder, selected(self.instance, [0]))
        for stream in embeddings:
            if not _close(embeddings[stream][: len(alone[stream])], alone[stream]):
                self.faults.append(
                    f"stream {stream!r}: an instance has other embeddings alone than in a batch; something is "
                    f"computed over the whole batch, even in eval mode."
                )

    def _check_views(self, encoder: Any, embeddings: Embeddings, views: Views[Any, Any]) -> None:
        for stream in views.hidden:
            if stream not in embeddings:
                self.faults.append(
                    f"the views hide items of stream {stream!r}, but the encoder returns {sorted(embeddings)}."
                )
        if views.context is self.instance:
            return  # nothing is hidden: the target is something else, such as a solver's state
        context = _embedded(encoder, views.context)
        for stream, z in embeddings.items():
            hidden = views.hidden.get(stream)
            if stream in views.items or context[stream].shape != z.shape:
                continue  # moved, or of another size, so no row is comparable
            if hidden is not None and hidden.shape != z.shape[:1]:
                self.faults.append(
                    f"the views mark {list(hidden.shape)} items of stream {stream!r} as hidden, but the encoder "
                    f"returns {len(z)}."
                )
                continue
            differs = (context[stream] != z).any(1)
            to_predict = torch.ones_like(differs) if hidden is None else hidden
            if bool(to_predict.any()) and not bool((differs & to_predict).any()):
                self.faults.append(
                    f"stream {stream!r}: none of the {int(to_predict.sum())} embeddings to predict changes if its item "
                    f"is hidden; the views hide nothing that the encoder reads."
                )


def _encoded(encoder: Any, instance: Any, seed: int = 0) -> Encoded:
    torch.default_generator.manual_seed(seed)
    return Encoded.of(encoder(instance))


def _embedded(encoder: Any, instance: Any, seed: int = 0) -> Embeddings:
    return _encoded(encoder, instance, seed).embeddings


def _tensors_of(instance: Any) -> list[Tensor]:
    """Return the tensors of a tensor, a mapping, or one of the package's batches."""
    parts: Any = [instance]
    if isinstance(instance, Mapping):
        parts = cast(Mapping[str, Any], instance).values()
    elif isinstance(instance, FlatVectors | Graph):
        parts = parts_of(instance).values()
    return [part for part in parts if isinstance(part, Tensor) and not part.is_inference()]


def _expected(instance: Any) -> dict[str, int]:
    if isinstance(instance, Graph):
        return {INSTANCE: instance.num_graphs, **{kind: len(nodes.features) for kind, nodes in instance.nodes.items()}}
    return {INSTANCE: batch_size(instance)} if isinstance(instance, Tensor | FlatVectors) else {}


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to rounding, which depends on the order of sums."""
    tolerance = min(100 * torch.finfo(a.dtype).eps, 1e-2)
    scale = a.detach().abs().amax().clamp(min=1.0) if a.numel() else 1.0
    return bool(((a - b).abs() <= tolerance * scale).all())


def _device(embeddings: Embeddings) -> torch.device:
    return next(iter(embeddings.values())).device
