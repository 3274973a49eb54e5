"""An engine of two processes, as vLLM is one: the simulated engine for its API server, and a core that it needs.

Started as `ENGINE_COMMAND … serve MODEL --host H --port P …`, so that the gateway takes it for vLLM. The core does
nothing but be there. Killed, it takes the API server along with exit status 0, as with vLLM; with the API server killed
it stays, and would keep the GPU's memory (vllm#55510). So it ignores what is not SIGKILL.
"""

import os
import signal
import subprocess
import sys
import threading

from headgate.simulator.cli import main as simulate

_CORE = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); signal.pause()"
NOTICED_S = 0.2


def main(argv: list[str]) -> None:
    words = [word for word in argv if word != "--disable-uvicorn-access-log"]
    model = words[words.index("serve") + 1]
    core = subprocess.Popen([sys.executable, "-I", "-S", "-c", _CORE, "VLLM::EngineCore"])
    threading.Thread(target=_leave_with, args=(core,), daemon=True).start()
    try:
        simulate(["--model-name", model, *words[words.index("serve") + 2 :]], standalone_mode=False)
    finally:
        core.send_signal(signal.SIGKILL)


def _leave_with(core: "subprocess.Popen[bytes]") -> None:
    core.wait()
    threading.Event().wait(NOTICED_S)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
