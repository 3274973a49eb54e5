"""How far the simulated engine is from a real one, on loads that its constants were not fitted on.

``python -m loadtest.fidelity --vllm …`` starts a real vLLM on the CPU, measures it in interleaved rounds, fits
constants to some loads, and puts the others on the simulated engine with them: the same client, the same requests.
"""
