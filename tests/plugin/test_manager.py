import sys
from types import SimpleNamespace

import pytest

from llmcls import LlmclsError, __version__, hookimpl
from llmcls.data.reader import dataset_readers
from llmcls.model.adapter import base_models
from llmcls.plugin.catalog import Catalog, hook_names
from llmcls.plugin.manager import check_hooks, describe_plugins, load_plugins, new_manager
from llmcls.prompt.template import PromptTemplate, prompt_templates

TEMPLATE = """
from llmcls import hookimpl
from llmcls.prompt.template import PromptTemplate

@hookimpl
def register_prompt_templates():
    return [PromptTemplate("{name}", "{{{{ text }}}} label:")]
"""

TEMPLATES = ("chat", "few_shot", "instruction", "minimal", "multi_label", "multi_label_chat", "text")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install fake distributions; nothing but them and the built-ins has an entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("llmcls.plugin.manager.distributions", lambda: installed(tmp_path))
    before = set(sys.modules)

    def install(distribution, entry_points, *, version="1.2.3", **modules):
        folder = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {module}" for name, module in entry_points.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[llmcls]", *lines]))
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source)
        load_plugins.cache_clear()

    yield install
    load_plugins.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def installed(folder):
    from importlib.metadata import distributions

    return distributions(path=[str(folder)])


def plugin(**hooks):
    """A plugin object whose hooks return the given things."""
    functions = {}
    for hook, things in hooks.items():

        def function(things=things):
            return things

        function.__name__ = hook
        functions[hook] = hookimpl(function)
    return SimpleNamespace(**functions)


def test_loads_built_ins_then_installed_plugins(install):
    install("fancy-templates", {"fancy": "fancy_plugin"}, fancy_plugin=TEMPLATE.format(name="fancy"))
    templates = prompt_templates()
    assert list(templates) == [*TEMPLATES, "fancy"]
    assert (templates.owner("chat"), templates.owner("fancy")) == ("prompt_templates", "fancy")
    assert load_plugins() is load_plugins()


def test_describes_plugins(install):
    install("fancy-templates", {"fancy": "fancy_plugin"}, fancy_plugin=TEMPLATE.format(name="fancy"))
    *built_ins, fancy = describe_plugins(load_plugins())
    assert {(info.distribution, info.version) for info in built_ins} == {("llmcls", __version__)}
    assert [info.name for info in built_ins] == ["base_models", "prompt_templates", "dataset_readers"]
    assert (fancy.name, fancy.distribution, fancy.version) == ("fancy", "fancy-templates", "1.2.3")
    assert (fancy.module, fancy.hooks) == ("fancy_plugin", ("register_prompt_templates",))


def test_describes_a_plugin_registered_by_hand():
    manager = new_manager()
    manager.register(plugin(register_prompt_templates=[]), name="mine")
    (info,) = describe_plugins(manager)
    assert (info.name, info.distribution, info.version) == ("mine", "", "")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("1/0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_does_not_import_is_named_with_the_remedy(install, monkeypatch, source, says):
    install("broken-dist", {"broken": "broken_plugin"}, version="0.9", broken_plugin=source)
    with pytest.raises(LlmclsError) as caught:
        load_plugins()
    for part in ("'broken'", "broken-dist 0.9", says, "LLMCLS_DISABLE_PLUGINS=broken"):
        assert part in str(caught.value)
    monkeypatch.setenv("LLMCLS_DISABLE_PLUGINS", "broken")
    assert not load_plugins().has_plugin("broken")


def test_a_missing_attribute_of_an_entry_point_is_an_import_problem(install):
    install("broken-dist", {"broken": "broken_plugin:Nothing"}, broken_plugin="")
    with pytest.raises(LlmclsError, match=r"'broken' of broken-dist 1\.2\.3 does not import: AttributeError"):
        load_plugins()


def test_disabling(install, monkeypatch):
    install("a-dist", {"a": "a_plugin"}, a_plugin=TEMPLATE.format(name="a"))
    install("b-dist", {"b": "b_plugin"}, b_plugin=TEMPLATE.format(name="b"))
    for value, left in (("a", {"b"}), (" a , b ,", set()), ("*", set()), ("", {"a", "b"})):
        monkeypatch.setenv("LLMCLS_DISABLE_PLUGINS", value)
        load_plugins.cache_clear()
        assert set(prompt_templates()) - {*TEMPLATES} == left
    assert len(prompt_templates()) == len(TEMPLATES) + 2


def test_disabling_an_unknown_plugin_suggests(install, monkeypatch):
    install("nano-dist", {"nano": "nano_plugin"}, nano_plugin="")
    monkeypatch.setenv("LLMCLS_DISABLE_PLUGINS", "nanno")
    with pytest.raises(LlmclsError, match=r"Unknown plugin 'nanno'\. Did you mean 'nano'\?"):
        load_plugins()


def test_two_plugins_with_one_name(install):
    install("first-dist", {"same": "first_plugin"}, first_plugin="")
    install("second-dist", {"same": "second_plugin"}, version="2.0", second_plugin="")
    with pytest.raises(LlmclsError, match="'same'") as caught:
        load_plugins()
    assert "first-dist 1.2.3" in str(caught.value) and "second-dist 2.0" in str(caught.value)


def test_a_plugin_may_not_take_a_built_ins_name(install):
    install("thief-dist", {"base_models": "thief_plugin"}, thief_plugin="")
    with pytest.raises(LlmclsError, match=r"'base_models'.*llmcls itself.*thief-dist"):
        load_plugins()


def test_one_distribution_found_twice_is_one_plugin(install, tmp_path, monkeypatch):
    install("twice-dist", {"twice": "twice_plugin"}, twice_plugin=TEMPLATE.format(name="twice"))
    monkeypatch.setattr(
        "llmcls.plugin.manager.distributions", lambda: [*installed(tmp_path), *installed(tmp_path.resolve())]
    )
    assert "twice" in prompt_templates()


def test_one_module_under_two_names(install):
    install("double-dist", {"one": "double_plugin", "two": "double_plugin"}, double_plugin=TEMPLATE.format(name="x"))
    with pytest.raises(LlmclsError, match=r"'two' of double-dist 1\.2\.3 cannot be registered"):
        load_plugins()


def test_two_templates_with_one_name_name_both_plugins(install):
    install("a-dist", {"a": "a_plugin"}, a_plugin=TEMPLATE.format(name="chat"))
    with pytest.raises(LlmclsError, match="template 'chat': prompt_templates and a;"):
        prompt_templates()


def test_a_misspelt_hook_is_caught(install):
    source = TEMPLATE.format(name="x").replace("register_prompt_templates", "register_prompt_template")
    install("typo-dist", {"typo": "typo_plugin"}, typo_plugin=source)
    with pytest.raises(LlmclsError, match="'typo' implements a hook that llmcls does not have") as caught:
        load_plugins()
    assert "register_prompt_template'" in str(caught.value) and "register_prompt_templates." in str(caught.value)


def test_a_hook_with_wrong_arguments_is_caught(install):
    source = TEMPLATE.format(name="x").replace("templates():", "templates(folder):")
    install("typo-dist", {"typo": "typo_plugin"}, typo_plugin=source)
    with pytest.raises(LlmclsError, match=r"'typo' of typo-dist 1\.2\.3 cannot be registered.*folder"):
        load_plugins()


@pytest.mark.parametrize("things", [None, PromptTemplate("x", "{{ text }}"), "chat"])
def test_a_hook_must_return_a_list(things):
    manager = new_manager()
    manager.register(plugin(register_prompt_templates=things), name="mine")
    with pytest.raises(LlmclsError, match=r"register_prompt_templates\(\) of plugin 'mine' must return a list"):
        prompt_templates(manager)


def test_a_catalog_is_a_mapping_with_helpful_errors():
    manager = new_manager()
    things = [SimpleNamespace(name="llama"), SimpleNamespace(name="tiny")]
    manager.register(plugin(register_base_models=things), name="mine")
    check_hooks(manager)
    catalog = Catalog(manager, "register_base_models", "base model")
    assert (list(catalog), len(catalog), catalog["tiny"], "nope" in catalog) == (["llama", "tiny"], 2, things[1], False)
    with pytest.raises(
        LlmclsError, match=r"Unknown base model 'lama'\. Did you mean 'llama'\? Available: llama, tiny\."
    ):
        catalog["lama"]


def test_hook_names_are_the_specifications(plugin_manager):
    assert plugin_manager is load_plugins()
    assert {"register_base_models", "register_commands"} < set(hook_names())


def test_the_fixture_holds_built_ins_only_and_takes_more(plugin_manager):
    plugin_manager.register(plugin(register_prompt_templates=[PromptTemplate("mine", "{{ text }} label:")]))
    assert list(prompt_templates()) == [*TEMPLATES, "mine"]
    assert {"auto", "llama-3", "tinyllama"} == set(base_models()) and "csv" in dataset_readers()
