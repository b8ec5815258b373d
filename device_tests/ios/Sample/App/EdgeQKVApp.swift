import SwiftUI

@main
struct EdgeQKVApp: App {
    var body: some Scene {
        WindowGroup { ContentView() }
    }
}
