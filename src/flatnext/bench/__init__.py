"""Speed, memory and start-up, measured side by side in one run. Importing the package does not import torch."""
