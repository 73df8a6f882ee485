"""What can be done with hypernetworks."""
