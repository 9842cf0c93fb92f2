"""What the compiler is told, and whether what it then makes is right."""

import jax
import pytest

from imagegen_jax.training import compiler


@pytest.fixture
def anew(tmp_path, monkeypatch):
    """Nothing is known of this jaxlib yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler._of_cpu.cache_clear()
    yield
    compiler._of_cpu.cache_clear()


def test_a_program_that_some_compilers_get_wrong_is_right_by_the_options_chosen(anew):
    optimised = {"xla_backend_optimization_level": 3}
    assert compiler.computes_right(compiler.options() | optimised)
    assert compiler.computes_right(compiler.NO_LIBRARIES | optimised)


@pytest.mark.parametrize("right", [True, False])
def test_libraries_are_used_where_they_compute_right_which_is_found_out_once(anew, monkeypatch, capsys, right):
    asked = []
    monkeypatch.setattr(compiler, "computes_right", lambda choices: asked.append(choices) or right)
    for _ in range(2):
        assert compiler.options() == (compiler.LIBRARIES if right else compiler.NO_LIBRARIES)
        compiler._of_cpu.cache_clear()  # as in another process
    assert asked == [compiler.LIBRARIES]
    said = capsys.readouterr().err
    assert said.count("\n") == (0 if right else 1) and right == ("wrong sums" not in said)


def test_without_a_cache_it_is_found_out_each_time(anew, tmp_path, monkeypatch):
    (tmp_path / "imagegen_jax").write_text("")
    monkeypatch.setattr(compiler, "computes_right", lambda choices: False)
    assert compiler.options() == compiler.NO_LIBRARIES


def test_options_that_xla_does_not_know_are_left_out(anew, monkeypatch):
    monkeypatch.setattr(compiler, "LIBRARIES", {"xla_no_such_option": 1})
    assert compiler.options() == {}


def test_other_backends_have_none_of_them(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler.options() == compiler.quick_options() == {}
