"""What is computed of all of somebody's windows at once, for tasks that need it beside the windows."""
