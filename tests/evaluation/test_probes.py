from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from mastlib.errors import InputError
from mastlib.evaluation.design import L2_GRID, THIN_GRID
from mastlib.evaluation.probes import judge, logistic_probe, majority_accuracy, multilabel_probe

SPLIT = np.array(["train"] * 600 + ["val"] * 200 + ["test"] * 400)
FITTED, TEST = slice(0, 800), slice(800, 1200)


def problem(classes: int, noise: float, dim: int = 20, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Gaussian classes seen through a random ReLU layer, with features of very different scales."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=len(SPLIT))
    hidden = rng.normal(size=(classes, 8))[y] + noise * rng.normal(size=(len(y), 8))
    x = np.maximum(hidden @ rng.normal(size=(8, dim)) + rng.normal(size=dim), 0) * np.geomspace(0.01, 100, dim)
    return torch.tensor(x, dtype=torch.float32), np.array([f"class {c:02d}" for c in y])


def reference(x: torch.Tensor, y: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's solution of the same objective: predictions, its design matrix, its coefficients."""
    scaler = StandardScaler().fit(x[FITTED].double().numpy())
    rows = np.hstack([scaler.transform(x.double().numpy()), np.ones((len(x), 1))])
    model = LogisticRegression(C=1 / (2 * weight), fit_intercept=False, tol=1e-7, max_iter=5000)
    model.fit(rows[FITTED], y[FITTED])
    return model.predict(rows[TEST]), rows, model.coef_


def objective(rows: np.ndarray, y: np.ndarray, coefficients: np.ndarray, weight: float) -> tuple[float, np.ndarray]:
    """The paper's objective and its gradient in float64, by autograd."""
    w = torch.tensor(coefficients, dtype=torch.float64, requires_grad=True)
    truth = torch.tensor(np.unique(y, return_inverse=True)[1])
    loss = torch.nn.functional.cross_entropy(torch.tensor(rows) @ w.T, truth, reduction="sum") + weight * w.pow(2).sum()
    loss.backward()
    return loss.item(), w.grad.numpy()


def test_the_grid_is_the_papers() -> None:
    assert len(L2_GRID) == 45
    assert L2_GRID[0] == 1e-6
    assert L2_GRID[-1] == 1e5
    np.testing.assert_allclose(np.diff(np.log10(L2_GRID)), 0.25)
    assert tuple(L2_GRID[i] for i in range(0, 45, 4)) == THIN_GRID


@pytest.mark.parametrize("weight", [0.1, 100.0])
@pytest.mark.parametrize(("classes", "noise"), [(4, 0.1), (5, 1.5), (40, 0.5)], ids=["separated", "noisy", "many"])
def test_logistic_probe_solves_scikit_learns_problem(classes: int, noise: float, weight: float) -> None:
    x, y = problem(classes, noise)
    predicted, rows, theirs = reference(x, y, weight)
    result = logistic_probe(x, y, SPLIT, [weight])
    assert abs(result.accuracy - accuracy_score(y[TEST], predicted)) <= 0.003
    assert abs(result.mean_recall - balanced_accuracy_score(y[TEST], predicted)) <= 0.005
    ours = result.coefficients.numpy()
    assert ours.shape == (classes, 21)
    loss, gradient = objective(rows[FITTED], y[FITTED], ours, weight)
    at_zero = objective(rows[FITTED], y[FITTED], 0 * ours, weight)[1]
    # To a thousandth of a nat over all 800 images, or of the optimum; and the gradient is gone.
    assert loss <= objective(rows[FITTED], y[FITTED], theirs, weight)[0] * 1.0001 + 1e-3
    assert np.linalg.norm(gradient) < 5e-4 * np.linalg.norm(at_zero)


def test_the_penalty_is_validations_first_best_and_a_shortened_path_chooses_the_same() -> None:
    x, y = problem(5, 2.0, dim=300)  # more features than help: weak penalties overfit
    result = logistic_probe(x, y, SPLIT, THIN_GRID)
    singles = {w: logistic_probe(x, y, SPLIT, [w]).path[w] for w in THIN_GRID}
    best = max(THIN_GRID, key=lambda w: singles[w])
    assert len(result.path) < len(THIN_GRID)  # it stopped early, or the next lines show nothing
    # A path starts each fit elsewhere and ends it early, so equal solutions differ a little: two validation images may flip.
    assert all(abs(result.path[w] - singles[w]) <= 2 / 200 + 1e-12 for w in result.path)
    assert result.path[result.weight] >= singles[best] - 2 / 200
    assert result.weight == min(w for w in result.path if result.path[w] == max(result.path.values()))


def test_a_validation_split_that_says_little_does_not_cut_the_path_short() -> None:
    """A style that hardly resembles the fitted one gives a flat, noisy curve; its first bump is no reason to stop."""
    x, y = problem(5, 0.5)
    x[SPLIT == "val"] = x[SPLIT == "val"][torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    result = logistic_probe(x, y, SPLIT, THIN_GRID)
    noise = 2 * np.sqrt(0.2 * 0.8 / 200)
    assert max(result.path.values()) < 0.2 + 2 * noise  # chance is one in five: validation tells nothing
    assert sorted(result.path) == sorted(THIN_GRID)


def test_the_choice_sees_validation_and_never_test_labels() -> None:
    x, y = problem(5, 1.0)
    rng = np.random.default_rng(0)
    scrambled_test, scrambled_val = y.copy(), y.copy()
    scrambled_test[TEST] = rng.permutation(y[TEST])
    scrambled_val[600:800] = rng.permutation(y[600:800])
    result, leak = logistic_probe(x, y, SPLIT, THIN_GRID[6:]), logistic_probe(x, scrambled_test, SPLIT, THIN_GRID[6:])
    assert leak.path == result.path
    assert leak.weight == result.weight
    torch.testing.assert_close(leak.coefficients, result.coefficients, rtol=0, atol=0)
    assert leak.accuracy < result.accuracy - 0.3
    assert logistic_probe(x, scrambled_val, SPLIT, THIN_GRID[6:]).path != result.path


def test_the_metric_decides_the_choice() -> None:
    rng = np.random.default_rng(2)
    y = np.where(rng.random(1200) < 0.1, "rare", "usual")
    x = rng.normal(size=(1200, 200))
    x[:, 0] += 1.5 * (y == "rare")  # faint: finding the rare ones costs accuracy
    features = torch.tensor(x, dtype=torch.float32)
    by_accuracy, by_recall = (logistic_probe(features, y, SPLIT, THIN_GRID, m) for m in ("accuracy", "mean_recall"))
    assert by_accuracy.path[1e5] == pytest.approx(majority_accuracy(y[:600], y[600:800]), abs=0.02)  # (nearly) always
    assert by_recall.path[1e5] == pytest.approx(0.5, abs=0.02)  # the usual
    assert by_recall.weight < by_accuracy.weight
    assert by_recall.mean_recall > by_accuracy.mean_recall + 0.05
    assert by_accuracy.accuracy > by_recall.accuracy
    assert by_accuracy.majority == (y[TEST] == "usual").mean()


def test_unlabelled_images_and_other_splits_are_as_if_they_were_not_there() -> None:
    x, y = problem(4, 0.8)
    drop = np.arange(len(y)) % 7 == 0
    labels, split = y.astype(object), SPLIT.astype(object)
    labels[drop & (np.arange(len(y)) % 2 == 0)] = np.nan
    labels[drop & (np.arange(len(y)) % 3 == 0)] = None
    split[drop & (np.arange(len(y)) % 2 == 1)] = np.nan
    dirty = x.clone()
    dirty[drop] *= 1000  # must not reach the standardisation either
    result = logistic_probe(dirty, labels, split, [1.0])
    clean = logistic_probe(x[~drop], y[~drop], SPLIT[~drop], [1.0])
    assert result.n_test == int((~drop[TEST]).sum())
    torch.testing.assert_close(result.coefficients, clean.coefficients)
    assert result.accuracy == clean.accuracy


def test_a_class_only_in_test_counts_as_errors_and_one_only_in_val_joins_the_last_fit() -> None:
    x, y = problem(4, 0.05)
    only_test = y.copy()
    only_test[TEST][:100] = "stranger"
    result = logistic_probe(x, only_test, SPLIT, [1.0])
    assert "stranger" not in result.classes
    assert result.accuracy == pytest.approx(np.mean(only_test[TEST] != "stranger"), abs=0.02)
    keep = ~((y == "class 02") & (np.arange(len(y)) < 600))  # class 02 has no training image, but validation ones
    late = logistic_probe(x[keep], y[keep], SPLIT[keep], [1.0])
    assert late.classes == ("class 00", "class 01", "class 02", "class 03")
    assert late.accuracy > 0.95


def test_scale_of_features_does_not_matter_and_constant_ones_do_no_harm() -> None:
    x, y = problem(5, 1.0)
    result = logistic_probe(x, y, SPLIT, [1.0])
    noise = 1 + 1e-7 * torch.randn(len(x), 3, generator=torch.Generator().manual_seed(0))
    moved = logistic_probe(torch.cat([x * 1000 + 5, torch.zeros(len(x), 1), 100 * noise], 1), y, SPLIT, [1.0])
    assert moved.accuracy == pytest.approx(result.accuracy, abs=0.003)
    raw = logistic_probe(x, y, SPLIT, [1.0], standardise=False)
    assert (raw.coefficients - result.coefficients).abs().max() > 0.1


def test_collapsed_features_score_the_majority() -> None:
    y = np.array(["a", "a", "b"] * 400)
    result = logistic_probe(torch.ones(1200, 4), y, SPLIT, THIN_GRID)
    assert result.accuracy == result.majority == (y[TEST] == "a").mean()
    assert result.mean_recall == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": ["train"] * 1200}, "split val has no labelled image"),
        ({"labels": ["one"] * 1200}, "two classes"),
        ({"labels": [None] * 1200}, "split train has no labelled image"),
        ({"split": ["train"] * 3}, "must match"),
        ({"weights": []}, "weights"),
        ({"weights": [0.0, 1.0]}, "weights"),
        ({"metric": "f1"}, "metric"),
    ],
)
def test_bad_input_is_one_line(change: dict[str, object], message: str) -> None:
    x, y = problem(3, 1.0)
    with pytest.raises(InputError, match=message) as caught:
        logistic_probe(**({"features": x, "labels": y, "split": SPLIT} | change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_what_was_said_of_each_image_comes_with_the_result() -> None:
    x, y = problem(4, 0.8)
    result = logistic_probe(x, y, SPLIT, [1.0])
    np.testing.assert_array_equal(result.rows, np.arange(800, 1200))
    np.testing.assert_array_equal(result.truth, y[TEST])
    assert judge(result.predicted, result.truth) == {"accuracy": result.accuracy, "mean_recall": result.mean_recall}


def several(noise: float = 1.0) -> tuple[torch.Tensor, pd.DataFrame]:
    """Features in which three labels of unlike frequency show, each apart from the others."""
    x, _ = problem(5, 1.0)
    rng = np.random.default_rng(3)
    z = ((x - x.mean(0)) / x.std(0)).numpy()
    logits = 2 * z @ rng.normal(size=(z.shape[1], 3)) / z.shape[1] ** 0.5 + noise * rng.logistic(size=(len(z), 3))
    return x, pd.DataFrame(logits > np.array([-1, 0.5, 2.0]), columns=["often", "half", "seldom"])


def test_a_probe_of_several_labels_solves_scikit_learns_problem_for_each() -> None:
    x, labels = several()
    weight = 10.0
    result = multilabel_probe(x, labels, SPLIT, [weight])
    expected = []
    for c, name in enumerate(labels):
        _, rows, _ = reference(x, np.where(labels[name], "yes", "no"), weight)
        # Two classes have one row of coefficients: |w|^2 once, where a softmax over two would have it twice.
        model = LogisticRegression(C=1 / (2 * weight), fit_intercept=False, tol=1e-8, max_iter=5000).fit(
            rows[FITTED], labels[name][FITTED]
        )
        scores = model.decision_function(rows[TEST])
        np.testing.assert_allclose(result.scores[:, c], scores, atol=2e-3)
        expected.append(average_precision_score(labels[name][TEST], scores))
    assert result.mean_ap == pytest.approx(np.mean(expected), abs=1e-3)
    assert result.chance == pytest.approx(labels[TEST].mean().mean())
    assert result.mean_ap > result.chance + 0.1


def test_of_several_labels_one_that_no_test_image_has_does_not_count_and_one_that_train_lacks_is_refused() -> None:
    x, labels = several()
    never = labels.assign(seldom=labels["seldom"] & (np.arange(1200) < 600))
    alone = multilabel_probe(x, labels[["often", "half"]], SPLIT, [1.0])
    assert multilabel_probe(x, never, SPLIT, [1.0]).mean_ap == pytest.approx(alone.mean_ap, abs=1e-4)
    with pytest.raises(InputError, match="label half is on no image of the train split"):
        multilabel_probe(x, labels.assign(half=np.arange(1200) >= 900), SPLIT, [1.0])


def test_of_several_labels_the_choice_is_validations() -> None:
    x, labels = several(3.0)
    result = multilabel_probe(x, labels, SPLIT, L2_GRID[::4])
    assert max(result.path, key=lambda weight: result.path[weight]) == result.weight
    shuffled = labels.copy()
    shuffled[TEST] = labels[TEST].to_numpy()[np.random.default_rng(0).permutation(400)]
    assert multilabel_probe(x, shuffled, SPLIT, L2_GRID[::4]).weight == result.weight
