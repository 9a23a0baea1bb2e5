"""What windows and sub-samplings do to accuracy: maps whose legend lies far away, the arms, their trainings, and the report."""
