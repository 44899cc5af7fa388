"""`turnout serve`."""

from typing import Annotated

from turnout.cli.options import ConfigOption, ModelsOption, StateOption, flag, option
from turnout.cli.output import reporting


def serve(
    grpc: Annotated[str | None, option("--grpc", "HOST:PORT", "gRPC data listener. (default: 127.0.0.1:8001)")] = None,
    http: Annotated[str | None, option("--http", "HOST:PORT", "HTTP listener. (default: 127.0.0.1:8000)")] = None,
    control: Annotated[
        str | None, option("--control", "HOST:PORT", "Operators' gRPC listener. (default: 127.0.0.1:8003)")
    ] = None,
    workers: Annotated[
        int | None, option("--workers", "N", "Number of serving processes. (default: 1)", min=1, max=256)
    ] = None,
    insecure: Annotated[
        bool, flag("--insecure", "Listen to other machines without TLS, or without authenticating callers.")
    ] = False,
    models: ModelsOption = None,
    read_only: Annotated[
        bool | None, flag("--read-only", "Never write to --models: exports, or a Triton model repository.")
    ] = None,
    state: StateOption = None,
    config: ConfigOption = None,
    print_config: Annotated[
        bool, flag("--print-config", "Print the effective configuration as TOML and exit.")
    ] = False,
    as_json: Annotated[bool, flag("--json", "Log in JSON; print the configuration in JSON.")] = False,
) -> None:
    """Serve every version in the repository, until SIGTERM.

    `turnout serve --models /mnt/models --read-only` serves a mounted directory: one exported version, a directory of
    them, or a Triton model repository. Its state is stored where --state says, or in memory.
    """
    from turnout.config import SettingsSource, check_exposure
    from turnout.config.rendering import as_data, render_toml

    with reporting(as_json=as_json) as out:
        flags = {"grpc": grpc, "http": http, "control": control, "workers": workers, "models": models, "state": state}
        flags |= {"insecure": insecure or None, "read_only": read_only or None}
        source = SettingsSource(config, flags, as_json)
        loaded = source.load()
        settings = loaded.settings
        if print_config:
            out.show(as_data(settings), render_toml(settings, loaded.origins).rstrip("\n"))
            return
        check_exposure(settings)
        import asyncio

        from turnout.app.process import loop_factory
        from turnout.scratch import place_for_temporary_files
        from turnout.serving.sessions.cuda_driver import cuda_driver
        from turnout.threads import end_process

        place_for_temporary_files()
        gpu = bool(cuda_driver().devices)
        if settings.workers > 1:
            from turnout.app.read_only import with_state
            from turnout.scratch import Scratch
            from turnout.telemetry.logging import make_logger
            from turnout.workers.division import check_gpus
            from turnout.workers.supervisor import supervise

            if gpu:
                check_gpus(settings)
            with Scratch() as scratch:
                # Workers share one state store, and load the settings again.
                flags["state"] = with_state(settings, scratch).state or None
                source = SettingsSource(config, flags, as_json)
                log = make_logger(settings.log.format, settings.log.level)
                code = asyncio.run(supervise(source.read(), source, log))
            end_process(code)
        from turnout.app.process import run

        with asyncio.Runner(loop_factory=loop_factory(gpu=gpu)) as runner:
            code = runner.run(run(settings, source.read))
        end_process(code)
