"""What control answers over gRPC, on `admin.grpc_address`. Loaded only where that is configured."""
