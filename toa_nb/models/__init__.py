"Language models behind OpenAI-compatible servers, and stand-ins for them."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    answers='backoff error_text read_answer read_choice read_json read_logprob read_usage read_with_options '
        'retry_after status_error token_logprobs',
    endpoints='AdaptiveLimit Balancer CircuitBreaker Endpoint EndpointState Slot',
    client='aiohttp_session as_endpoint as_spec ChatModel check_settings Connection encrypted http_client '
        'models_from normalise read_table remedy trusted with_system',
    fakes='digits FakeModel ReplayModel',
)
