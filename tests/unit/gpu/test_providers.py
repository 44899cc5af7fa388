"""What looking for execution providers leaves behind."""

import sys
import threading

from turnout.serving.sessions import providers


def test_threads_that_probe_at_once_leave_standard_output_where_it_was() -> None:
    before, together = sys.stdout, threading.Barrier(4)

    def probe() -> None:
        together.wait()
        for _ in range(10):
            assert any(report.usable for report in providers.probe.__wrapped__())  # the tries, not what was remembered

    threads = [threading.Thread(target=probe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.stdout is before
