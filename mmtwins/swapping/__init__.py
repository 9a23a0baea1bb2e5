"""Put a Twins backbone into any config of MMSegmentation or MMDetection."""
