"""How long `toa run` takes to its first call where a file has many prompts: CPU seconds, and seconds by the clock.

Run: python benchmarks/many_prompts.py [--prompts 10000 100000]

The prompts have an id and an instruction. The server is one of this process and answers nothing: it ends the run with SIGKILL
at its first call after the check. The aim for 100,000 prompts: 5 CPU seconds. `reading` is `load_prompts` alone.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

READING = 'import sys, time; from toa_nb import load_prompts; t = time.process_time(); load_prompts(sys.argv[1]); print(time.process_time() - t)'


class Server(ThreadingHTTPServer):
    "Answers the check, and then kills the process that calls."
    daemon_threads = True

    def __init__(self):
        self.process, self.calls, self.lock = None, 0, threading.Lock()
        super().__init__(('127.0.0.1', 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass

    def send(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self): self.send({'object': 'list', 'data': [{'id': 'm', 'object': 'model'}]})

    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        with self.server.lock:
            self.server.calls += 1
            if self.server.calls > 1: return self.server.process.send_signal(signal.SIGKILL)
        message = {'role': 'assistant', 'content': 'An answer.'}
        self.send({'id': 'c', 'object': 'chat.completion', 'created': 1, 'model': 'm',
                   'choices': [{'index': 0, 'message': message, 'finish_reason': 'stop'}],
                   'usage': {'prompt_tokens': 9, 'completion_tokens': 3, 'total_tokens': 12}})


def first_call(folder):
    "CPU seconds and seconds from the start of `toa run` to its first call."
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder/'run.toml').write_text(f'''name = "many"
prompts = "prompts.jsonl"
method = {{name = "best_of_n", n = 1}}
reward = "own:length"
store = "runs.db"
[[models]]
name = "m"
endpoints = ["http://127.0.0.1:{server.server_port}/v1"]
''')
    (folder/'own.py').write_text('def length(prompt, response): return float(len(response))\n')
    begun = time.monotonic()
    server.process = subprocess.Popen([sys.executable, '-m', 'toa_nb', 'run', str(folder/'run.toml'), '--quiet'])
    _, status, used = os.wait4(server.process.pid, 0)
    if not os.WIFSIGNALED(status): sys.exit('the run ended by itself')
    server.process.returncode = -signal.SIGKILL
    server.shutdown()
    server.server_close()
    return used.ru_utime + used.ru_stime, time.monotonic() - begun


def main(sizes):
    print('| prompts | reading, CPU s | first call, CPU s | by the clock, s |\n|---|---|---|---|')
    for n in sizes:
        with tempfile.TemporaryDirectory() as d:
            file = Path(d, 'prompts.jsonl')
            file.write_text(''.join(json.dumps(dict(id=f'p{i}', instruction=f'Why is {i} a number? Answer in one sentence.')) + '\n'
                                    for i in range(n)))
            reading = float(subprocess.run([sys.executable, '-c', READING, str(file)], capture_output=True, text=True, check=True).stdout)
            cpu, clock = first_call(Path(d))
        print(f'| {n:,} | {reading:.2f} | {cpu:.2f} | {clock:.2f} |', flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--prompts', type=int, nargs='+', default=[10_000, 100_000])
    main(parser.parse_args().prompts)
