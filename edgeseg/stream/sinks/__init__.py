"""Where results go: files, servers, brokers, windows."""
