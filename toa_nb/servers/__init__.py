"Servers on this machine: llama.cpp, vLLM and SGLang."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    spec='key_env ServeError ServerSpec take_port',
    gpu='check_gpus Gpu gpus read_gpus',
    logs='diagnose',
    process='Server servers start state_folder stop',
    chat_templates='check_chat_template read_chat_template render_chat tokenizer_template',
    local='cache_folder local_model ModelWheel',
    engines='EngineArgs gpu_spec llama_cpp llama_cpp_spec sglang vllm',
    fleet='Fleet HostedEndpoint server_specs read_servers start_all',
    watcher='notify_models Watcher',
)
