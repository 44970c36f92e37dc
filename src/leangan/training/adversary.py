"""A discriminator that learns beside the student, and what the student learns of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from leangan.errors import UsageError
from leangan.training.examples import Batch
from leangan.training.losses.adversarial import GAMES, Scores, r1, several

_R1_EVERY = 8
"""Steps between the penalties on the slope, each as many times stronger (StyleGAN2)."""
_WINS = 0.98
"""Share of right verdicts from which on the discriminator waits for the generator."""
_SMOOTH = 0.95

Look = Callable[[Tensor], tuple[Scores, list[Tensor]]]
"""Takes outputs; returns their scores, and what the layers put out on the way."""


class Discriminator:
    """Implements `loop.Adversary` by a network.

    One that is always right teaches nothing: it then skips steps until the generator catches up.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        game: str = "non-saturating",
        weight: float = 1.0,
        slope: float = 1.0,
        lr: float = 2e-4,
        beta: float = 0.5,
        look: Look | None = None,
        matching: float = 0.0,
    ) -> None:
        """Begin with the network as it is.

        Args:
            network: outputs to scores; trained in place. Several scores count alike.
            game: a name of `losses.adversarial.GAMES`.
            weight: of the student's side beside its other losses.
            slope: weight of the R1 penalty; 0 for none.
            lr: of Adam.
            beta: Adam's first decay.
            look: the network, with what its layers put out, for `matching`.
            matching: weight of the mean difference of these between what is made and what is
                wanted: feature matching (Salimans et al. 2016; Wang et al. 2018, pix2pixHD).

        Raises:
            UsageError: there is no such game.
        """
        if game not in GAMES:
            raise UsageError(f"There is no game {game!r}; choose from {', '.join(GAMES)}.")
        self.network, self.game, self.weight, self.slope = network, GAMES[game], weight, slope
        self.optimizer = torch.optim.Adam(network.parameters(), lr, (beta, 0.99), fused=True)
        self.look, self.matching = look, matching
        self.right, self.step, self.waited = 0.5, 0, 0

    def to(self, device: torch.device) -> None:
        """Move to where the student is."""
        self.network.to(device)

    def terms(self, made: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The student's side of the game."""
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        if self.look is None or not self.matching:
            scores = self.network(made.float())
            return {"adversarial": self.weight * _mean(self.game.maker, scores)}
        scores, maps = self.look(made.float())
        with torch.no_grad():
            _, wanted = self.look(_real(batch))
        apart = [
            (a - b).abs().mean() / b.abs().mean().clamp_min(1e-8)
            for a, b in zip(maps, wanted, strict=True)
        ]
        return {
            "adversarial": self.weight * _mean(self.game.maker, scores),
            "matching": self.matching * torch.stack(apart).mean(),
        }

    def learn(self, made: Tensor, batch: Batch, share: float) -> dict[str, float]:
        """One step of the discriminator, unless it wins anyway."""
        for parameter in self.network.parameters():
            parameter.requires_grad_(True)
        real = _real(batch)
        real_scores, made_scores = self.network(real), self.network(made.float())
        loss = _mean(self.game.judge, real_scores, made_scores)
        if self.slope and self.step % _R1_EVERY == 0:
            loss = loss + self.slope * _R1_EVERY * r1(self.network, real)
        now = float(_mean(_right, real_scores, made_scores))
        self.right = _SMOOTH * self.right + (1 - _SMOOTH) * now
        self.step += 1
        if self.right > _WINS:
            self.waited += 1
        else:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return {"discriminator": float(loss.detach()), "discriminator_right": self.right}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "right": self.right, "step": self.step, "waited": self.waited,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.right, self.step, self.waited = state["right"], state["step"], state["waited"]


def _mean(of: Callable[..., Tensor], *sides: Scores) -> Tensor:
    """Over the discriminators that judge together, however many scores each of them gives."""
    together = zip(*map(several, sides), strict=True)
    return torch.stack([of(*scores) for scores in together]).mean()


def _right(real: Tensor, made: Tensor) -> Tensor:
    return ((real > 0).float().mean() + (made < 0).float().mean()) / 2


def _real(batch: Batch) -> Tensor:
    return batch.wanted if batch.truth is None else batch.truth
