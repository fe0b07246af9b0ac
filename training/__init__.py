"""The application: trains, resumes and publishes the models. Used from a checkout; not part of the wheel."""
