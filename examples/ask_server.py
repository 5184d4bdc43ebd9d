"""Starts ``skipstone serve`` on a free port, asks it through OpenAI's client, and stops it."""

import signal
import subprocess
import sys
import time

SERVE = [sys.executable, "-m", "skipstone", "serve", "--model", "pebble", "--port", "0"]
QUESTION = "Who is Newton, physics?"


def main() -> int:
    """Start, ask and stop."""
    began = time.perf_counter()
    with subprocess.Popen(SERVE, stdout=subprocess.PIPE, text=True) as server:
        try:
            ask(server, began)
        finally:
            server.send_signal(signal.SIGINT)
    return server.returncode


def ask(server: subprocess.Popen[str], began: float) -> None:
    """Ask once, and once more as a stream."""
    # The server starts meanwhile.
    from openai import OpenAI
    from openai.types.chat import ChatCompletionUserMessageParam

    assert server.stdout is not None
    line = server.stdout.readline().strip()
    print(line)
    with OpenAI(base_url=line.split()[-1], api_key="none") as client:
        messages = [ChatCompletionUserMessageParam(role="user", content=QUESTION)]
        answer = client.chat.completions.create(model="pebble", messages=messages)
        print(f"{QUESTION}\n{answer.choices[0].message.content}")
        print(f"({time.perf_counter() - began:.1f} s after the start)")
        stream = client.chat.completions.create(model="pebble", messages=messages, stream=True)
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="|", flush=True)
        print()


if __name__ == "__main__":
    sys.exit(main())
