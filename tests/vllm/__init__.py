"""The main road on a real vLLM: `make test-vllm`, or HEADGATE_TEST_VLLM=/path/to/vllm pytest tests/vllm."""
