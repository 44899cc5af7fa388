"""The dashboard of the servers' resources and their use."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from parts import ANY, RATE, board, lines, variable


def resources() -> Dashboard:
    """Returns the dashboard."""
    made = board("turnout-resources", "Turnout / Resources", "CPU, memory and GPUs of the servers.", ["resources"])
    some = 'job="$job",instance=~"$instance"'
    return (
        made.with_variable(variable("instance", f"label_values(turnout_policy_epoch{{{ANY}}}, instance)", several=True))
        .with_panel(
            lines(
                "CPU",
                (f"rate(process_cpu_seconds_total{{{some}}}{RATE})", "{{instance}}"),
                about="Cores in use, without child processes (of isolated versions and shadows).",
            )
        )
        .with_panel(
            lines(
                "memory",
                (f'turnout_memory_used_bytes{{{some},device="cpu"}}', "{{instance}}"),
                (f'turnout_memory_limit_bytes{{{some},device="cpu"}}', "{{instance}} limit"),
                unit="bytes",
                dashed="limit",
            )
        )
        .with_panel(
            lines(
                "GPU memory",
                (f'turnout_memory_used_bytes{{{some},device=~"cuda:.*"}}', "{{instance}} {{device}}"),
                (f'turnout_memory_limit_bytes{{{some},device=~"cuda:.*"}}', "{{instance}} {{device}} limit"),
                (f"turnout_gpu_process_memory_bytes{{{some}}}", "{{instance}} {{device}} this process"),
                about="In use by all processes on the device, and by the server's process.",
                unit="bytes",
                dashed="limit",
            )
        )
        .with_panel(
            lines(
                "GPU use",
                (f"turnout_gpu_utilization_ratio{{{some}}}", "{{instance}} {{index}} {{device}}"),
                about="Share of the time in which a kernel ran, for all GPUs that the driver lists.",
                unit="percentunit",
            )
        )
        .with_panel(
            lines(
                "memory by version",
                (
                    f"max by (model, version, device) (turnout_version_memory_bytes{{{some}}})",
                    "{{model}} {{version}} {{device}}",
                ),
                about="Memory that the last load of the version took.",
                unit="bytes",
            )
        )
        .with_panel(
            lines(
                "run time by version",
                (
                    f"sum by (model, version) (rate(turnout_compute_duration_seconds_sum{{{some}}}{RATE}))",
                    "{{model}} {{version}}",
                ),
                about="Seconds of runs per second, summed over requests: each request of a batch counts the whole run.",
            )
        )
        .with_panel(
            lines(
                "loads",
                (f"sum by (outcome) (increase(turnout_version_loads_total{{{some}}}{RATE}))", "{{outcome}}"),
            )
        )
        .with_panel(
            lines(
                "time of the last load",
                (f"max by (model, version) (turnout_version_load_duration_seconds{{{some}}})", "{{model}} {{version}}"),
                unit="s",
            )
        )
        .with_panel(
            lines(
                "child processes that died",
                (
                    f"sum by (model, version) (increase(turnout_isolated_restarts_total{{{some}}}{RATE}))",
                    "{{model}} {{version}}",
                ),
                about="Child processes of isolated versions. Each was replaced.",
            )
        )
        .with_panel(
            lines(
                "open files",
                (f"process_open_fds{{{some}}}", "{{instance}}"),
                (f"process_max_fds{{{some}}}", "{{instance}} limit"),
                dashed="limit",
            )
        )
        .with_panel(
            lines(
                "scrapes",
                (f"scrape_duration_seconds{{{some}}}", "{{instance}}"),
                about="How long Prometheus took to get the metrics.",
                unit="s",
            )
        )
    )
