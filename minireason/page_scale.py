"""Sections of the two scaling axes: reinforcement learning, process critic and search."""

from minireason import figures_scale
from minireason.markup import Page, grid, section, share, table, text
from minireason.results import level_of


def rl(page: Page) -> str:
    """What reinforcement learning added, and its diagnostics."""
    if "rl" not in page.run:
        return ""
    config, result = page.run["rl"]["config"], page.run["rl"]["result"]
    accuracy = result["accuracy"]
    rows = [[str(level_of(name)), share(accuracy["sampled_before"][name]),
             share(accuracy["sampled"][name]), share(accuracy["cot"][name])]
            for name in accuracy["sampled"]]
    last = result["curve"][-1]
    return section(
        "Reinforcement learning",
        text(f"{config['steps']} steps of {config['prompts_per_step']} train problems, levels",
             f"{config['min_level']} to {config['max_level']}, {config['group_size']} samples",
             f"each; advantage {config['advantage']}, {last['generated_tokens'] / 1e6:.2f} million",
             f"tokens generated, {last['flops']:.2e} FLOPs."),
        grid(page.figure("rl_curve", "Validation accuracy against generated tokens",
                         figures_scale.rl_curve),
             page.figure("rl_diagnostics", "Diagnostics against the step",
                         figures_scale.rl_diagnostics)),
        table(["level", "one sample before (%)", "one sample after (%)", "greedy after (%)"], rows))
