"""What a study compares: planned contrasts, those by default, and plain SGD of equal compute."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_study import write_run, write_study
from scipy import stats
from tiny import tiny

from flatnext.cli.main import main
from flatnext.config import Amp, Config, Optimizer, Schedule, recipe
from flatnext.errors import InputError
from flatnext.report.protocol import remarks
from flatnext.runs.reading import read_plan
from flatnext.runs.records import StudyPlan
from flatnext.study.claims import answers
from flatnext.study.division import Division
from flatnext.study.plan import make_plan, parse_contrasts, with_equal_compute
from flatnext.study.reading import read_study
from flatnext.study.study import Study


def labels(study: Study) -> list[str]:
    return [contrast.label for contrast in study.contrasts]


def with_runs(folder: Path, configs: list[Config], seeds: int = 3) -> Study:
    """Write a study whose runs have 2 epochs, of sgd-2x 4, and read it."""
    for config in configs:
        for seed in range(seeds):
            epochs, run = 4 if config.recipe.endswith("-2x") else 2, folder / config.recipe / f"seed-{seed}"
            if not run.exists():
                write_run(run, replace(config, seed=seed), epochs=epochs)
    return read_study([folder])


def test_planned_contrasts_are_those_of_the_plan_in_its_order(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ("sgd", "amp", "rmp"), range(3), epochs=2)
    plan = {"recipes": ["sgd", "amp", "rmp"], "seeds": [0, 1, 2], "contrasts": [["amp", "rmp"], ["amp", "sgd"]]}
    (folder / "study.json").write_text(json.dumps(plan))
    study = read_study([folder])
    assert labels(study) == ["amp − rmp", "amp − sgd"]
    assert [contrast.comparison.family for contrast in study.contrasts if contrast.comparison] == [2, 2]
    plan["contrasts"] = []
    (folder / "study.json").write_text(json.dumps(plan))
    assert labels(read_study([folder])) == ["amp − sgd", "rmp − sgd"]


def test_a_contrast_whose_runs_are_not_finished_is_left_for_later(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ("sgd", "amp"), range(3), epochs=2)
    plan = {"recipes": ["sgd", "amp", "sam"], "seeds": [0, 1, 2], "contrasts": [["amp", "sam"], ["amp", "sgd"]]}
    (folder / "study.json").write_text(json.dumps(plan))
    assert labels(read_study([folder])) == ["amp − sgd"]


def test_by_default_methods_are_compared_with_plain_sgd_of_the_same_epochs_and_of_the_same_passes(
    tmp_path: Path,
) -> None:
    configs = with_equal_compute([recipe("sgd"), recipe("amp"), recipe("momentum-amp")])
    assert labels(with_runs(tmp_path, configs)) == ["amp − sgd", "amp − sgd-2x", "momentum-amp − sgd"]


def compared(study: Study) -> dict[str, list[Any]]:
    """Return what answers each claim about amp and sgd."""
    found = [answer for answer in answers(study) if answer.contrast.label == "amp − sgd"]
    epochs = {answer.claim.text: [answer.epochs] for answer in found if answer.epochs is not None}
    return {answer.claim.text: [tested.comparison for tested in answer.tested] for answer in found} | epochs


def test_contrasts_that_are_no_claim_are_corrected_together_with_those_that_are(tmp_path: Path) -> None:
    names = ["sgd", "amp", "rmp"]
    folder = write_study(tmp_path, tuple(names), range(5), epochs=2)
    contrasts = [["amp", "rmp"], ["amp", "sgd"]]
    (folder / "study.json").write_text(json.dumps({"recipes": names, "seeds": [*range(5)], "contrasts": contrasts}))
    study = read_study([folder])
    (loss,) = study.select("loss", split="test")
    losses = {name: list(loss.values(name).values()) for name in names}
    p, other = (stats.ttest_rel(losses["amp"], losses[name]).pvalue for name in ("sgd", "rmp"))
    (comparison,) = compared(study)["lower test loss"]
    assert comparison.p_adjusted == pytest.approx(2 * p if p < other else max(2 * other, p), rel=1e-6)  # Holm 1979
    assert comparison.family == 2


@pytest.mark.parametrize("contrasts", [[["amp", "rmp"], ["amp", "sgd"], ["amp", "sam"]], []])
def test_what_is_planned_and_not_finished_counts_in_the_family(tmp_path: Path, contrasts: list[list[str]]) -> None:
    names = ["sgd", "amp", "rmp", "sam"]
    folder = write_study(tmp_path, ("sgd", "amp"), range(5), epochs=2, evidence=("calibration",))
    (folder / "study.json").write_text(json.dumps({"recipes": names, "seeds": [*range(5)], "contrasts": contrasts}))
    study = read_study([folder])
    (contrast,) = study.contrasts
    assert (contrast.label, contrast.comparison.family) == ("amp − sgd", 3)
    assert contrast.comparison.p_adjusted == pytest.approx(3 * contrast.comparison.p)
    assert "Holm's procedure for 3 comparisons" in contrast.sentence
    before = compared(study)
    assert [comparison.family for comparison in before["higher test accuracy"]] == [3]
    assert [comparison.family for comparison in before["better calibrated"]] == [6, 6]
    for name in names[2:]:
        write_run(folder / name / "seed-0", recipe(name), epochs=2)
    study = read_study([folder])
    comparisons = [contrast.comparison for contrast in study.contrasts]
    assert [c.family for c in comparisons if c.p is not None] == [3]  # the others have one seed
    assert compared(study) == before  # also where a contrast is no claim, as that of amp with rmp


def test_no_verdict_goes_when_the_rest_of_a_study_comes(tmp_path: Path) -> None:
    """A method that is missing stands for two comparisons where there is plain SGD of the same passes."""
    configs = with_equal_compute([recipe(name) for name in ("sgd", "amp", "sam")])
    make_plan(configs, 3).write(tmp_path, "")
    before = with_runs(tmp_path, [config for config in configs if config.recipe != "sam"])
    assert labels(before) == ["amp − sgd", "amp − sgd-2x"]
    assert before.missing == 2
    after = with_runs(tmp_path, [config for config in configs if config.recipe == "sam"])
    assert len(after.contrasts) == 4
    assert after.missing == 0


def test_what_was_planned_stays_planned(tmp_path: Path) -> None:
    names = ("sgd", "amp", "sam", "rmp")
    configs = {name: recipe(name) for name in names}
    first = (("amp", "sgd"), ("sam", "sgd"), ("rmp", "sgd"))
    make_plan(configs.values(), 3, contrasts=first).write(tmp_path, "")

    def goes_on(recipes: str, contrasts: tuple[tuple[str, str], ...] = ()) -> StudyPlan:
        make_plan([configs[name] for name in recipes.split()], 3, contrasts=contrasts).write(tmp_path, "")
        return read_plan(file)

    file = tmp_path / "study.json"
    assert goes_on("sgd amp", (("amp", "sgd"),)).contrasts == first
    assert with_runs(tmp_path, [configs["sgd"], configs["amp"]]).contrasts[0].comparison.family == 3
    assert goes_on("amp rmp", (("amp", "rmp"),)).contrasts == (*first, ("amp", "rmp"))
    assert goes_on("sgd amp").contrasts == (*first, ("amp", "rmp"))
    configs["asam"] = recipe("asam")
    assert goes_on("sgd amp asam").contrasts == (*first, ("amp", "rmp"), ("asam", "sgd"))
    file.unlink()
    make_plan([configs["sgd"], configs["amp"], configs["sam"]], 3).write(tmp_path, "")
    plan = goes_on("sgd amp")
    assert (plan.contrasts, plan.comparisons, set(plan.recipes)) == ((), 2, {"sgd", "amp", "sam"})
    assert goes_on("sgd amp rmp", (("amp", "rmp"),)).contrasts == (*first[:2], ("amp", "rmp"))
    file.unlink()
    make_plan([configs["sgd"], configs["amp"]], 3).write(tmp_path, "")
    assert goes_on("sgd rmp").comparisons == 2
    assert goes_on("sgd rmp", (("rmp", "sgd"),)).contrasts == (("amp", "sgd"), ("rmp", "sgd"))


def test_a_control_that_comes_later_is_compared(tmp_path: Path) -> None:
    pair = [recipe("sgd"), recipe("amp")]
    make_plan(pair, 3, contrasts=(("amp", "sgd"),)).write(tmp_path, "")
    make_plan(with_equal_compute(pair), 3).write(tmp_path, "")
    assert read_plan(tmp_path / "study.json").contrasts == (("amp", "sgd"), ("amp", "sgd-2x"))


def test_two_commands_at_once_lose_no_contrast(tmp_path: Path) -> None:
    configs = [recipe(name) for name in ("sgd", "amp", "rmp")]
    first, second = (make_plan(configs, 3, contrasts=pairs) for pairs in ((("amp", "sgd"),), (("amp", "rmp"),)))
    for plan in (first, second, first):  # a command writes its plan again when it knows how many runs fit
        plan.write(tmp_path, "")
    assert set(read_plan(tmp_path / "study.json").contrasts) == {("amp", "sgd"), ("amp", "rmp")}


def test_a_study_keeps_the_threads_that_it_began_with(tmp_path: Path) -> None:
    plan = make_plan([recipe("sgd")], 1)
    for division in (Division(jobs=1, threads=1), Division(jobs=2, threads=2)):
        plan.write(tmp_path, "", division)
    kept = read_plan(tmp_path / "study.json")
    assert (kept.jobs, kept.threads) == (1, 1)
    plan.write(tmp_path, "")
    assert read_plan(tmp_path / "study.json") == kept
    plan.write(tmp_path, "", Division(jobs=2, threads=2), overwrite=True)
    kept = read_plan(tmp_path / "study.json")
    assert (kept.jobs, kept.threads) == (2, 2)


def test_the_seed_of_a_config_makes_no_other_recipe() -> None:
    sgd, amp = recipe("sgd"), replace(recipe("amp"), seed=3)
    assert make_plan([sgd, amp], 2).record().defaults == (("amp", "sgd"),)
    with pytest.raises(InputError, match="the same but for the name"):
        make_plan([sgd, replace(sgd, recipe="mine", seed=3)], 2)


def test_a_control_that_is_the_only_plain_sgd_is_compared_once(tmp_path: Path) -> None:
    _, amp, control = with_equal_compute([recipe("sgd"), recipe("amp")])
    assert labels(with_runs(tmp_path, [amp, control])) == ["amp − sgd-2x"]
    assert make_plan([amp, control], 3).record().comparisons == 1


def test_nothing_that_was_not_planned_is_compared(tmp_path: Path) -> None:
    other = recipe("amp").override({"epsilon": 0.1, "recipe": "amp-b"})
    plan = make_plan([recipe("sgd"), recipe("amp"), other], 3, contrasts=(("amp", "sgd"), ("amp-b", "sgd")))
    plan.write(tmp_path, "")
    assert labels(with_runs(tmp_path, [recipe("amp"), other])) == []


def test_seeds_that_were_added_later_are_told(tmp_path: Path) -> None:
    configs = [recipe("sgd"), recipe("amp")]
    make_plan(configs, 3).write(tmp_path, "")
    assert not any("begun with" in text for text in remarks(with_runs(tmp_path, configs)))
    for _ in range(2):
        make_plan(configs, 4).write(tmp_path, "")
    text = "The study was begun with 3 seeds, and some were added later"
    assert any(remark.startswith(text) for remark in remarks(with_runs(tmp_path, configs, 4)))
    make_plan(configs, 1, first_seed=3).write(tmp_path, "")
    assert any(remark.startswith(text) for remark in remarks(read_study([tmp_path])))


def test_two_studies_of_other_seeds_were_not_added_to(tmp_path: Path) -> None:
    configs = [recipe("sgd"), recipe("amp")]
    for name, first in (("a", 0), ("b", 3)):
        plan = make_plan(configs, 3, first_seed=first)
        (tmp_path / name).mkdir()
        plan.write(tmp_path / name, "")
        for run in plan.runs(tmp_path / name):
            write_run(run.folder, run.config, epochs=2)
    assert read_study([tmp_path / "a", tmp_path / "b"]).begun_with is None


def test_equal_compute_is_found_and_no_epoch_more_by_rounding() -> None:
    shares = [{"ascent_share": share} for share in (0.07, 0.09, 0.1, 0.11, 0.2, 0.3, 0.5, 0.7)]
    for settings in [*shares, *({"perturb_every": number} for number in (2, 4, 5, 10))]:
        sgd, amp = recipe("sgd"), recipe("amp").override(settings)
        share = settings.get("ascent_share", 1 / settings.get("perturb_every", 1))
        configs = with_equal_compute([sgd, amp])
        control = configs[-1]
        assert control.epochs == round(100 * (1 + share))
        assert make_plan(configs, 2).record().defaults == (("amp", "sgd"), ("amp", control.recipe))


@pytest.mark.parametrize(("name", "value"), [("channels", 1), ("resize", "pad"), ("skip_damaged", True)])
def test_recipes_that_read_other_pixels_are_no_study(name: str, value: object) -> None:
    other = recipe("amp").override({name: value})
    with pytest.raises(InputError, match=f"sgd has {name} .* and amp .*: give --{name.replace('_', '-')}"):
        make_plan([recipe("sgd"), other], 3)


def test_each_of_several_studies_has_its_own_contrasts(tmp_path: Path) -> None:
    """Also where they name the same recipes, with other settings, and where one of them names none."""
    for name, decay, contrasts in (("a", 5e-4, [["amp", "sgd"]]), ("b", 1e-3, [["amp", "sgd"]]), ("c", 2e-3, [])):
        for seed in range(3):
            for each in ("sgd", "amp"):
                config = recipe(each).override({"weight_decay": decay, "seed": seed})
                write_run(tmp_path / name / each / f"seed-{seed}", config, epochs=2)
        plan = {"recipes": ["sgd", "amp"], "seeds": [0, 1, 2], "contrasts": contrasts, "comparisons": 1}
        (tmp_path / name / "study.json").write_text(json.dumps(plan))
    study = read_study([tmp_path])
    assert labels(study) == [f"amp (weight_decay={d}) − sgd (weight_decay={d})" for d in ("0.0005", "0.001", "0.002")]
    assert {contrast.comparison.family for contrast in study.contrasts} == {3}
    write_run(tmp_path / "mine", recipe("sam"), epochs=2)
    assert labels(read_study([tmp_path]))[3:] == ["sam − sgd (weight_decay=0.0005)"]


def test_without_plain_sgd_the_first_recipe_is_the_baseline(tmp_path: Path) -> None:
    assert labels(with_runs(tmp_path, [recipe("amp"), recipe("sam")])) == ["sam − amp"]


def test_plain_recipes_are_compared_with_each_other(tmp_path: Path) -> None:
    slow = replace(recipe("sgd"), recipe="slow", optimizer=Optimizer(learning_rate=0.01))
    assert labels(with_runs(tmp_path, [recipe("sgd"), slow])) == ["slow − sgd"]


@pytest.mark.parametrize(
    ("config", "name", "epochs", "schedule"),
    [
        (recipe("amp"), "sgd-2x", 200, Schedule(warmup_epochs=2.0)),
        (recipe("report-amp"), "sgd-2x", 200, Schedule(t_max=400, per_epoch=True)),
        (recipe("paper-amp"), "sgd-2x", 400, Schedule(schedule="steps", milestones=(200, 300), gamma=0.1)),
        (replace(recipe("amp"), method=Amp(ascent_share=0.5)), "sgd-1.5x", 150, Schedule(warmup_epochs=1.5)),
        (replace(recipe("amp"), method=Amp(inner_iter=2)), "sgd-3x", 300, Schedule(warmup_epochs=3.0)),
    ],
)
def test_equal_compute_is_plain_sgd_with_the_passes_of_the_dearest(
    config: Config, name: str, epochs: int, schedule: Schedule
) -> None:
    *given, longer = with_equal_compute([recipe("sgd"), config])
    assert given == [recipe("sgd"), config]
    assert (longer.recipe, longer.epochs, longer.schedule) == (name, epochs, schedule)
    assert longer.epochs * longer.method.passes == config.epochs * config.method.passes
    assert (longer.optimizer, longer.data, longer.batch_size) == (config.optimizer, config.data, config.batch_size)


def test_equal_compute_is_named_after_the_plain_recipe_and_stretches_the_sizes() -> None:
    plain = tiny("quick", epochs=3, warmup_epochs=0.5)
    plain = replace(plain, data=replace(plain.data, early_sizes=(4, 8)))
    *_, longer = with_equal_compute([plain, replace(plain, recipe="quick-amp", method=Amp())])
    assert longer.recipe == "quick-2x"
    assert (longer.epochs, longer.data.early_sizes, longer.schedule.warmup_epochs) == (6, (4, 4, 8, 8), 1.0)


def test_plain_sgd_of_many_epochs_is_not_the_dearest_method() -> None:
    *_, longer = with_equal_compute([recipe("report-sgd"), recipe("cpu+amp")])
    assert longer.epochs == 2 * recipe("cpu").epochs
    assert replace(longer.data, early_sizes=None) == replace(recipe("cpu").data, early_sizes=None)


def test_no_method_needs_no_equal_compute() -> None:
    with pytest.raises(InputError, match="leave --equal-compute out"):
        with_equal_compute([recipe("sgd"), recipe("momentum-amp")])


def test_contrasts_in_words() -> None:
    assert parse_contrasts(["amp:sgd", "quick+sam:quick"]) == (("amp", "sgd"), ("quick+sam", "quick"))
    for text in ("amp", "amp:", ":sgd", "a:b:c"):
        with pytest.raises(InputError, match=re.escape(f"--contrasts {text}: give RECIPE:BASELINE")):
            parse_contrasts([text])


@pytest.mark.parametrize(
    ("contrasts", "match"),
    [
        ([("amp", "sam")], r"contrast amp:sam: sam is not among the recipes sgd, amp: give --contrasts"),
        ([("amp", "amp")], "two different recipes"),
        ([("amp", "sgd"), ("amp", "sgd")], "each pair once"),
    ],
)
def test_contrasts_without_sense_are_refused(contrasts: list[tuple[str, str]], match: str) -> None:
    with pytest.raises(InputError, match=match):
        make_plan([recipe("sgd"), recipe("amp")], 3, contrasts=contrasts)


def test_the_plan_keeps_its_contrasts(tmp_path: Path) -> None:
    plan = make_plan([recipe("sgd"), recipe("amp")], 3, contrasts=[("amp", "sgd")])
    plan.write(tmp_path, "flatnext study")
    assert read_plan(tmp_path / "study.json").contrasts == (("amp", "sgd"),)


def test_the_command_takes_contrasts_and_equal_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []

    def keep(plan: object, output: Path, **_: object) -> list[str]:
        plans.append(plan)
        write_study(output, seeds=(0,), epochs=1)
        return []

    monkeypatch.setattr("flatnext.study.runner.run_study", keep)
    flags = ["--recipes", "sgd", "amp", "--equal-compute", "--contrasts", "amp:sgd", "amp:sgd-2x"]
    assert main(["study", *flags, "--output", str(tmp_path / "study")]) == 0
    assert [config.recipe for config in plans[0].configs] == ["sgd", "amp", "sgd-2x"]
    assert plans[0].contrasts == (("amp", "sgd"), ("amp", "sgd-2x"))
