"""The alternative that needs labels: one trunk for both models, and a head trained again on it.

The recipient's classifier reads the pooled features of the donor's last stage, and is trained on
labelled frames: as many as the linear maps of merge-search are fitted on without labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.data.frames import batches
from search.data.ground_truth import ClassTruth
from spaces.adapters import LinearMap, resize
from spaces.deployment import Deployment
from spaces.liveness import canonical
from spaces.merged import MergedModel
from spaces.model_facts import layouts_by_model
from spaces.plan import Ref, Share, SharePlan

BATCH = 16
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weight decays that are compared on a quarter of the frames, with the features at unit size."""


def merge_with_retrained_head(
    deployment: Deployment, share: Share, labelled: ClassTruth
) -> MergedModel:
    """Return the models with the recipient's head trained on the donor's features."""
    plan = canonical(SharePlan((share,)), layouts_by_model(deployment.facts))
    donor = deployment.facts[share.donor.model].stage(share.donor.stage)
    recipient = deployment.facts[share.recipient.model].stage(share.recipient.stage)
    blank = LinearMap(
        torch.zeros(recipient.channels, donor.channels), torch.zeros(recipient.channels)
    )
    merged = MergedModel(deployment.models, deployment.facts, plan, {share: blank})
    (layer,) = [
        part
        for _, owner, module in merged.parts()
        if owner.model == share.recipient.model
        for part in module.modules()
        if isinstance(part, nn.Linear)
    ]
    features = pooled_features(deployment, share.donor, labelled)
    targets = torch.tensor([next(iter(right)) for right in labelled.labels])
    weight, bias = train_classifier(features, targets, layer.out_features)
    layer.weight.data, layer.bias.data = weight, bias
    return merged


@torch.no_grad()
def pooled_features(deployment: Deployment, donor: Ref, labelled: ClassTruth) -> Tensor:
    """Return the donor's pooled representation of each frame, (frames, channels)."""
    model = deployment.fused_models[donor.model]
    pooled = []
    for _, pictures in batches(labelled.frames, BATCH):
        for stage, values in model.walk(model.prepare_frames(pictures)):
            if stage == donor.stage:
                pooled.append(resize(values, None))
                break
    return torch.cat(pooled)


def train_classifier(features: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the multinomial logistic regression of the best penalty."""
    mean, size = features.mean(0), features.std(0).mean()
    scaled = (features - mean) / size
    held_out = torch.arange(len(targets)) % 4 == 3

    def loss_of(penalty: float) -> float:
        weight, bias = _fit(scaled[~held_out], targets[~held_out], classes, penalty)
        logits = F.linear(scaled[held_out], weight, bias)
        return float(F.cross_entropy(logits, targets[held_out]))

    weight, bias = _fit(scaled, targets, classes, min(PENALTIES, key=loss_of))
    return weight / size, bias - weight @ mean / size


def _fit(features: Tensor, targets: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), targets)
        loss = loss + penalty * weight.square().sum() / 2
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
