"""The torch-free domain that the API and the worker share."""
