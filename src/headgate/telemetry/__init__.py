"""What the gateway shows of itself: every instrument in one list (``metrics``), and the log (``logs``)."""
