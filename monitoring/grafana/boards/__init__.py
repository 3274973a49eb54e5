"""The dashboards, in the order in which a person goes through them."""

from __future__ import annotations

from monitoring.grafana.boards import capacity, engines, gateway, infrastructure, llm, overview

BOARDS = (overview.BOARD, gateway.BOARD, capacity.BOARD, llm.BOARD, infrastructure.BOARD, engines.BOARD)
