"""A config of one's own as JSON, YAML or TOML."""

from __future__ import annotations

import pytest

from flatnext.config import recipe
from flatnext.errors import InputError
from flatnext.runs.config_file import read_config_file

SAME = {
    "a.json": '{"recipe": "amp", "epochs": 50, "method": {"epsilon": 0.1}, "optimizer": {"weight_decay": 2e-4}}',
    "a.yaml": "# mine\nrecipe: amp\nepochs: 50\nmethod:\n  epsilon: 1e-1\noptimizer: {weight_decay: 2e-4}\n",
    "a.YML": "recipe: amp\nepochs: 50\nmethod: {epsilon: 0.1}\noptimizer:\n  weight_decay: 0.0002\n",
    "a.toml": 'recipe = "amp"\nepochs = 50\n[method]\nepsilon = 0.1\n[optimizer]\nweight_decay = 2e-4\n',
}
WRONG = {
    "a.json": [
        ('{"epochs": 1, "epochs": 2}', r"a.json: 'epochs' is given twice"),
        ('{"epochs": 1', r"a.json is not JSON \(.*line 1 column 13"),
        ('{"recipe": "amp", "method": {"epsilom": 1}}', "a.json: config.method has no setting 'epsilom'.*epsilon"),
        ("[1]", "a.json: config is no object"),
        (
            '{"accumulate": 4, "grad_accum_steps": 2}',
            "'accumulate' is called 'grad_accum_steps' now, and both are given",
        ),
    ],
    "a.yaml": [
        ("epochs: 1\nmethod:\n  rho: 1\n  rho: 2\n", r"a.yaml: 'rho' is given twice, in line 4"),
        ("epochs: [1\n", r"a.yaml is not YAML \(.*line 2, column 1"),
        ("epochs: 2020-01-01\n", "a.yaml: epochs is datetime.*give a value of type int"),
        ("recipe: !!python/object/apply:os.getcwd []\n", r"a.yaml is not YAML \(could not determine a constructor"),
        ("batch_size: yes\n", "a.yaml: batch_size is True: give a value of type int"),
        ("&a [*a, *a]\n", "a.yaml: config is no object"),
        ("batch_size: 064\n", "a.yaml: batch_size is '064': give a value of type int"),
        ("batch_size: 1:04\n", "a.yaml: batch_size is '1:04': give a value of type int"),
    ],
    "a.toml": [
        ("epochs = 1\nepochs = 2\n", r"a.toml is not TOML \(Cannot overwrite a value \(at line 2"),
        ('flip = "none"\n', "a.toml: config has no setting 'flip' at its top: it is data.flip, in the section data"),
    ],
    "a.ini": [("", "no known format: choose one of .json, .yaml, .yml, .toml")],
}


@pytest.mark.parametrize("name", SAME)
def test_the_formats_say_the_same(tmp_path, name):
    file = tmp_path / name
    file.write_text(SAME[name])
    expected = recipe("amp").override({"epochs": 50, "epsilon": 0.1, "weight_decay": 2e-4})
    assert read_config_file(file) == expected


@pytest.mark.parametrize(("name", "text", "message"), [(name, *case) for name, rows in WRONG.items() for case in rows])
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_config_file(file)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nowhere.yaml: No such file"):
        read_config_file(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"recipe: \xe4\n")
    with pytest.raises(InputError, match=r"latin.yaml is not YAML"):
        read_config_file(tmp_path / "latin.yaml")


@pytest.mark.parametrize("name", SAME)
def test_a_mark_of_the_byte_order_is_no_part_of_the_file(name, tmp_path):
    (tmp_path / name).write_text(SAME[name], encoding="utf-8-sig")
    assert read_config_file(tmp_path / name).epochs == 50
